"""The store in memory: tickets never touch a disk, and end with the process."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import NoReturn

from pykcm.store.interface import Committed, Entry, Loaded, Outcome, Pause, StoreError
from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Expired,
    Put,
    RenameContainer,
    Secret,
    SecretChange,
    ccaches_container,
    is_ccaches_container,
    uid_of_container,
)


class MemoryStore:
    """Implements Store with dictionaries."""

    persistent = False
    commits_at_once = 1
    freshness = None
    sharing = None

    def __init__(self) -> None:
        # Secrets by UID, so that `load` does not look at other UIDs; then by container and name.
        self._trees: dict[int | None, dict[str, dict[str, Secret]]] = {}
        # In order: the expired secrets are at the beginning.
        self._expiring: list[Expired] = []
        # The UIDs that have ccaches, ascending.
        self._uids: list[int] = []
        self._ccaches = 0
        self._version = 0

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        secrets = [each for container in self._trees.get(uid, {}).values() for each in container.values()]
        return Loaded(self._version, secrets)

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> None:
        return None

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        return list(map(self._commit, entries))

    def _commit(self, entry: Entry) -> Outcome:
        self._version += 1
        for change in entry.changes:
            uid = uid_of_container(change.container)
            tree = self._trees.setdefault(uid, {})
            had = _number_of_ccaches(uid, tree)
            self._apply(change, uid, tree)
            if uid is not None:
                self._count(uid, had, _number_of_ccaches(uid, tree))
            if not tree:
                del self._trees[uid]
        return Committed(dict.fromkeys(entry.bases, self._version))

    async def outcome(self, entry: Entry) -> NoReturn:
        # This happens only after an error in pykcm: the store itself always knows.
        raise StoreError("it is unknown whether a change was committed")

    def _apply(self, change: SecretChange, uid: int | None, tree: dict[str, dict[str, Secret]]) -> None:
        match change:
            case Put(container, name):
                secrets = tree.setdefault(container, {})
                self._forget_expiry(uid, secrets.get(name))
                secrets[name] = secret = Secret(*change)
                if uid is not None and secret.expires is not None:
                    insort(self._expiring, Expired(secret.expires, name, uid))
            case Delete(container, name):
                self._forget_expiry(uid, tree.get(container, {}).pop(name, None))
            case DeleteContainer(container):
                for secret in tree.pop(container, {}).values():
                    self._forget_expiry(uid, secret)
            case RenameContainer(container, path):
                if container in tree:
                    renamed = {
                        name: secret._replace(container=path) for name, secret in tree.pop(container).items()
                    }
                    self._trees.setdefault(uid_of_container(path), {})[path] = renamed

    def _count(self, uid: int, had: int, has: int) -> None:
        self._ccaches += has - had
        if has and not had:
            insort(self._uids, uid)
        elif had and not has:
            del self._uids[bisect_left(self._uids, uid)]

    def _forget_expiry(self, uid: int | None, secret: Secret | None) -> None:
        if uid is not None and secret is not None and secret.expires is not None:
            del self._expiring[bisect_left(self._expiring, Expired(secret.expires, secret.name, uid))]

    async def uids(self) -> list[int]:
        return list(self._uids)

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        begin = 0 if after is None else bisect_right(self._expiring, after)
        end = bisect_right(self._expiring, until, key=lambda each: each.expires)
        return self._expiring[begin : min(end, begin + limit)]

    async def uids_without_expiry(self, after: int) -> tuple[list[int], int | None]:
        uids = [
            uid
            for uid, tree in self._trees.items()
            if uid is not None
            and any(
                secret.expires is None
                for path, secrets in tree.items()
                if is_ccaches_container(path)
                for secret in secrets.values()
            )
        ]
        # In one part: the store is empty at each start, so an older version has written nothing in it.
        return sorted(uids), None

    async def count_ccaches(self) -> int:
        return self._ccaches

    def close(self) -> None:
        self._trees.clear()
        self._expiring.clear()
        self._uids.clear()
        self._ccaches = 0


def _number_of_ccaches(uid: int | None, tree: dict[str, dict[str, Secret]]) -> int:
    return 0 if uid is None else len(tree.get(ccaches_container(uid), ()))
