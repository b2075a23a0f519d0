"""Changes of secrets as SQL statements."""

from typing import Any

from pykcm.store.tree import Delete, DeleteContainer, Put, RenameContainer, SecretChange, is_ccaches_container

_ADD_CONTAINER = "INSERT INTO containers (path) VALUES (?)"
_FIND_CONTAINER = "SELECT id FROM containers WHERE path = ?"
_PUT = """
    INSERT INTO secrets (container, name, value) VALUES (?, ?, ?)
    ON CONFLICT (container, name) DO UPDATE SET value = excluded.value
"""
# Two statements: the first one shows whether the ccache is new.
_ADD_CCACHE = """
    INSERT INTO secrets (container, name, value, expires) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (container, name) DO NOTHING
"""
# An equal row is not written again, because its index entry would be written too.
_WRITE_CCACHE = """
    UPDATE secrets SET value = ?3, expires = ?4
    WHERE container = ?1 AND name = ?2 AND (value IS NOT ?3 OR expires IS NOT ?4)
"""
_DELETE = "DELETE FROM secrets WHERE container = (SELECT id FROM containers WHERE path = ?) AND name = ?"
_DELETE_SECRETS = "DELETE FROM secrets WHERE container = (SELECT id FROM containers WHERE path = ?)"
_RENAME_CONTAINER = "UPDATE containers SET path = ? WHERE path = ?"
_DELETE_CONTAINER = "DELETE FROM containers WHERE path = ?"

# The number of remembered containers: a Put into one of them needs no look-up of its id.
_CONTAINERS_REMEMBERED = 1024


class Applier:
    """Makes changes in `db`, within the caller's transaction.

    The same changes make equal databases of equal ones, down to the ids.
    """

    def __init__(self, db: Any) -> None:
        self._db = db
        self._container_ids: dict[str, int] = {}

    def forget(self) -> None:
        """Forget remembered containers: the changes may have been rolled back."""
        self._container_ids.clear()

    def is_one_statement(self, change: SecretChange) -> bool:
        """Whether the change is a single statement, and no change of ccaches."""
        return (
            type(change) is Put
            and change.container in self._container_ids
            and not is_ccaches_container(change.container)
        )

    def apply(self, change: SecretChange) -> int:
        """Make the change; returns how many ccaches it adds. Negative: how many it removes."""
        db = self._db
        match change:
            case Put(container, name, value, expires):
                container_id = self._container_ids.get(container) or self._add_container(container)
                if is_ccaches_container(container):
                    return self._put_ccache(container, container_id, name, value, expires)
                db.execute(_PUT, (container_id, name, value))
            case Delete(container, name):
                deleted = db.execute(_DELETE, (container, name)).rowcount
                return -deleted if is_ccaches_container(container) else 0
            case DeleteContainer(container):
                deleted = db.execute(_DELETE_SECRETS, (container,)).rowcount
                db.execute(_DELETE_CONTAINER, (container,))
                self._container_ids.pop(container, None)
                return -deleted if is_ccaches_container(container) else 0
            case RenameContainer(container, path):
                db.execute(_RENAME_CONTAINER, (path, container))
                self._container_ids.pop(container, None)
        return 0

    def _put_ccache(
        self, container: str, container_id: int, name: str, value: bytes, expires: int | None
    ) -> int:
        # The container of its credentials is added now. If the ccache is its UID's first one or was just
        # emptied, this transaction writes the pages of containers anyway, and the next STORE does not.
        credentials = f"{container}/{name}"
        if credentials not in self._container_ids:
            self._add_container(credentials)
        if self._db.execute(_ADD_CCACHE, (container_id, name, value, expires)).rowcount:
            return 1
        self._db.execute(_WRITE_CCACHE, (container_id, name, value, expires))
        return 0

    def _add_container(self, path: str) -> int:
        """Return the id of the container of this path, which is added if it is missing."""
        found = self._db.execute(_FIND_CONTAINER, (path,)).fetchall()
        id_ = int(found[0][0] if found else self._db.execute(_ADD_CONTAINER, (path,)).lastrowid)
        if len(self._container_ids) >= _CONTAINERS_REMEMBERED:
            self._container_ids.clear()
        self._container_ids[path] = id_
        return id_
