"""The store that forgets: tickets never touch a disk, and end with the process."""

from collections.abc import Iterable

from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Put,
    Secret,
    SecretChange,
    is_ccaches_container,
    uid_of_container,
)


class MemoryStore:
    """Implements Store with dictionaries."""

    persistent = False

    def __init__(self) -> None:
        # By UID, so that loading one does not look at the others; then by container and name.
        self._trees: dict[int | None, dict[str, dict[str, bytes]]] = {}

    async def load(self, uid: int) -> list[Secret]:
        return [
            Secret(container, name, value)
            for container, secrets in self._trees.get(uid, {}).items()
            for name, value in secrets.items()
        ]

    async def commit(self, changes: Iterable[SecretChange]) -> None:
        for change in changes:
            uid = uid_of_container(change.container)
            tree = self._trees.setdefault(uid, {})
            match change:
                case Put(container, name, value):
                    tree.setdefault(container, {})[name] = value
                case Delete(container, name):
                    tree.get(container, {}).pop(name, None)
                case DeleteContainer(container):
                    tree.pop(container, None)
            if not tree:
                del self._trees[uid]

    async def uids(self) -> list[int]:
        return sorted(
            uid
            for uid, tree in self._trees.items()
            if uid is not None
            and any(secrets and is_ccaches_container(path) for path, secrets in tree.items())
        )

    async def count_ccaches(self) -> int:
        return sum(
            len(secrets)
            for tree in self._trees.values()
            for path, secrets in tree.items()
            if is_ccaches_container(path)
        )

    def close(self) -> None:
        self._trees.clear()
