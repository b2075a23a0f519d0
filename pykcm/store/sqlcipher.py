"""The default store: an encrypted SQLite database of one file, written by this process alone.

Containers and secrets are two tables. A secret's rowid is its place in stored order: a Put that replaces
keeps it. Opening looks before it touches: a key or file that is wrong is found by a connection that cannot
write, because an ordinary one would write to the files even on its way out.
"""

import asyncio
import errno
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.disk import sync_folder, why_refused
from pykcm.store.interface import StoreError, StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Expired,
    Put,
    Secret,
    SecretChange,
    is_ccaches_container,
    uid_container,
    uid_of_container,
)

SCHEMA_VERSION = 1

_SCHEMA = """
    CREATE TABLE containers (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE);
    CREATE TABLE secrets (
        id INTEGER PRIMARY KEY,
        container INTEGER NOT NULL REFERENCES containers (id),
        name TEXT NOT NULL,
        value BLOB NOT NULL,
        expires INTEGER,
        UNIQUE (container, name)
    );
    CREATE INDEX expiring ON secrets (expires, name) WHERE expires IS NOT NULL;
"""

_LOAD = """
    SELECT path, name, value, expires FROM containers JOIN secrets ON secrets.container = containers.id
    WHERE path = ?1 OR path > ?1 || '/' AND path < ?1 || '0'
    ORDER BY secrets.id
"""  # '0' is the character after '/'

_ADD_CONTAINER = "INSERT OR IGNORE INTO containers (path) VALUES (?)"
_FIND_CONTAINER = "SELECT id FROM containers WHERE path = ?"
_PUT = """
    INSERT INTO secrets (container, name, value) VALUES (?, ?, ?)
    ON CONFLICT (container, name) DO UPDATE SET value = excluded.value
"""
# What is the same is not written over: the index would be.
_PUT_EXPIRING = """
    INSERT INTO secrets (container, name, value, expires) VALUES (?, ?, ?, ?)
    ON CONFLICT (container, name) DO UPDATE SET value = excluded.value, expires = excluded.expires
    WHERE value IS NOT excluded.value OR expires IS NOT excluded.expires
"""
_DELETE = "DELETE FROM secrets WHERE container = (SELECT id FROM containers WHERE path = ?) AND name = ?"
_DELETE_SECRETS = "DELETE FROM secrets WHERE container = (SELECT id FROM containers WHERE path = ?)"
_DELETE_CONTAINER = "DELETE FROM containers WHERE path = ?"

_CCACHES_CONTAINERS = "path GLOB '/kcm/persistent/*/ccaches'"
_WITH_CCACHES = f"""
    SELECT path FROM containers
    WHERE {_CCACHES_CONTAINERS} AND EXISTS (SELECT 1 FROM secrets WHERE container = containers.id)
"""
_COUNT_CCACHES = f"""
    SELECT count(*) FROM secrets WHERE container IN (SELECT id FROM containers WHERE {_CCACHES_CONTAINERS})
"""

# CROSS JOIN: in the order of the index, without sorting.
_EXPIRED = """
    SELECT expires, name, path FROM secrets CROSS JOIN containers ON containers.id = secrets.container
    WHERE expires <= ? AND (expires, name) > (?, ?)
    ORDER BY expires, name LIMIT ?
"""

_BEFORE_ALL = (-(2**63), "")

# Changes nothing, and writes a page.
_COVER = f"PRAGMA user_version = {SCHEMA_VERSION}"

# Until it is tried again, in seconds.
_COVERED_AGAIN_AFTER = 1.0

# Ids of containers that were written to last, so that a Put need not look for them.
_CONTAINERS_REMEMBERED = 1024

_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}

# Up to this size, in bytes, a database is checked whole at start; beyond it, each page's HMAC is checked
# when the page is read.
_CHECKED_AT_START = 16 * 1024 * 1024

_BEGIN_ANEW = "or move the database away to begin with an empty one"

_ERRNO = {
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EROFS,
    "SQLITE_CANTOPEN": errno.EIO,
    "SQLITE_NOMEM": errno.ENOMEM,
}


class SQLCipherStore:
    """Implements Store on the database at `path`, created where it is missing.

    `durability`: "full" survives a loss of power, "normal" a crash of the process.
    Raises StoreUnusableError, in which case nothing has been changed.
    """

    persistent = True

    def __init__(self, path: Path, key: Key, durability: str = "full") -> None:
        self._folder = path.parent
        self._container_ids: dict[str, int] = {}
        self._covering: asyncio.TimerHandle | None = None
        try:
            if has_tickets(path):
                _inspect(path, key)
            else:
                _create(path, key)
            self._db = _connect(path, key, "rw")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA temp_store = MEMORY")
            _check_version(self._db)
        except _UnfitError as error:
            raise StoreUnusableError(f"{path}: {error}") from None
        except sqlcipher.Error as error:
            raise StoreUnusableError(f"{path}: {_cause(error)}") from error

    async def load(self, uid: int) -> list[Secret]:
        return [Secret(*row) for row in self._query(_LOAD, (uid_container(uid),))]

    async def commit(self, changes: Iterable[SecretChange]) -> None:
        db = self._db
        may_be_written = False
        try:
            db.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._apply(change)
            may_be_written = True
            db.execute("COMMIT")
        except sqlcipher.Error as error:
            self._roll_back()
            if may_be_written:
                self._cover()
            raise self._refusal(error) from error
        except BaseException:
            self._roll_back()
            raise

    def _apply(self, change: SecretChange) -> None:
        db = self._db
        match change:
            case Put(container, name, value, expires):
                container_id = self._container_ids.get(container) or self._add_container(container)
                if is_ccaches_container(container):
                    db.execute(_PUT_EXPIRING, (container_id, name, value, expires))
                else:
                    db.execute(_PUT, (container_id, name, value))
            case Delete(container, name):
                db.execute(_DELETE, (container, name))
            case DeleteContainer(container):
                db.execute(_DELETE_SECRETS, (container,))
                db.execute(_DELETE_CONTAINER, (container,))
                self._container_ids.pop(container, None)

    def _add_container(self, path: str) -> int:
        self._db.execute(_ADD_CONTAINER, (path,))
        [(container,)] = self._db.execute(_FIND_CONTAINER, (path,)).fetchall()
        if len(self._container_ids) >= _CONTAINERS_REMEMBERED:
            self._container_ids.clear()
        self._container_ids[path] = int(container)
        return int(container)

    def _roll_back(self) -> None:
        # What was remembered may never have been there.
        self._container_ids.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _cover(self) -> None:
        """Write over what the journal has of a commit that was refused, now or as soon as it can be done.

        When the sync fails, SQLite forgets the commit, but in the journal it is whole: a crash before
        something else is written in that place would bring it back. The next commit may write nothing.
        """
        self._stop_covering()
        if not self._covers():
            self._covering = asyncio.get_running_loop().call_later(_COVERED_AGAIN_AFTER, self._cover)

    def _covers(self) -> bool:
        try:
            self._db.execute(_COVER)
        except sqlcipher.Error:
            return False
        return True

    def _stop_covering(self) -> None:
        if self._covering is not None:
            self._covering.cancel()
            self._covering = None

    def _refusal(self, error: sqlcipher.Error) -> StoreError:
        if _name(error).startswith("SQLITE_IOERR"):
            return StoreError(_cause(error), why_refused(self._folder))
        return _store_error(error)

    async def uids(self) -> list[int]:
        uids = (uid_of_container(path) for (path,) in self._query(_WITH_CCACHES))
        return sorted(uid for uid in uids if uid is not None)

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        begin = _BEFORE_ALL if after is None else (after.expires, after.name)
        rows = self._query(_EXPIRED, (until, *begin, limit))
        expired = ((expires, name, uid_of_container(path)) for expires, name, path in rows)
        return [Expired(expires, name, uid) for expires, name, uid in expired if uid is not None]

    async def count_ccaches(self) -> int:
        [(count,)] = self._query(_COUNT_CCACHES)
        return int(count)

    def _query(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        try:
            rows: list[Any] = self._db.execute(statement, parameters).fetchall()
        except sqlcipher.Error as error:
            raise _store_error(error) from error
        return rows

    def close(self) -> None:
        if self._covering is not None:
            self._covers()
            self._stop_covering()
        self._db.close()


def _connect(path: Path, key: Key, mode: str) -> Any:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    db = sqlcipher.connect(uri, uri=True, isolation_level=None, cached_statements=64)
    # SQLCipher writes to stderr otherwise, and its messages say nothing that the exceptions do not.
    db.execute("PRAGMA cipher_log_level = NONE")
    db.execute(f"PRAGMA key = \"x'{key.raw.hex()}'\"")
    # As strong for pages of this size as the default, SHA-512, and twice as fast where the CPU knows it.
    db.execute("PRAGMA cipher_hmac_algorithm = HMAC_SHA256")
    # One process has it: no shared memory file, no lock for each transaction.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    return db


def _schema_version(db: Any) -> int:
    [(version,)] = db.execute("PRAGMA user_version").fetchall()
    return int(version)


def has_tickets(path: Path) -> bool:
    """Whether there is a database, or what is left of one: then its key must be there, too."""
    return bool(_size(path) or _size(_journal(path)))


def _journal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _create(path: Path, key: Key) -> None:
    # Whole and durable under another name first: a database that is there is a good one, with a schema and
    # no other journal than the write-ahead one, wherever a first start was interrupted.
    unfinished = path.with_name(path.name + ".new")
    try:
        for ending in ("", "-journal", "-wal"):
            unfinished.with_name(unfinished.name + ending).unlink(missing_ok=True)
        with closing(_connect(unfinished, key, "rwc")) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        unfinished.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreUnusableError(f"{error.filename or path}: {error.strerror}") from error


def _inspect(path: Path, key: Key) -> None:
    """Raise StoreUnusableError unless the database can be read with this key, without changing a byte."""
    if not _size(path):
        raise StoreUnusableError(
            f"{path}: empty, beside a journal that is not; restore a backup, {_BEGIN_ANEW}"
        )
    closed_in_order = not _size(_journal(path))
    try:
        # Without locks the journal is read in memory; with them, it would need a file beside it.
        with closing(_connect(path, key, "ro&immutable=1" if closed_in_order else "ro&vfs=unix-none")) as db:
            _check_version(db)
            if _size(path) + _size(_journal(path)) <= _CHECKED_AT_START:
                _check_pages(db, closed_in_order=closed_in_order)
    except _UnfitError as error:
        raise StoreUnusableError(f"{path}: {error}") from None
    except sqlcipher.Error as error:
        raise StoreUnusableError(f"{path}: {_cause_and_way_out(error, key)}") from error


class _UnfitError(Exception):
    """What is wrong with a database that can be decrypted, and the way out."""


def _check_pages(db: Any, *, closed_in_order: bool) -> None:
    # After a crash a page of the database may be half written, and whole in the journal: then only what a
    # reader sees counts.
    damage = db.execute("PRAGMA cipher_integrity_check").fetchall() if closed_in_order else []
    damage += [row for row in db.execute("PRAGMA quick_check(1)").fetchall() if row != ("ok",)]
    if damage:
        raise _UnfitError(f"damaged: {damage[0][0]}; restore a backup, {_BEGIN_ANEW}")


def _check_version(db: Any) -> None:
    version = _schema_version(db)
    if version > SCHEMA_VERSION:
        raise _UnfitError(
            f"its schema is version {version}, made by a newer pykcm; this one knows up to "
            f"{SCHEMA_VERSION}: use the newer pykcm, {_BEGIN_ANEW}"
        )


def _cause_and_way_out(error: sqlcipher.Error, key: Key) -> str:
    if _name(error) == "SQLITE_NOTADB":
        return (
            f"cannot be decrypted: either {key.source} is not the key it was made with, or the file is "
            f"damaged; restore the right key or a backup, {_BEGIN_ANEW}"
        )
    if _name(error).startswith("SQLITE_CORRUPT"):
        return f"{_cause(error)}; restore a backup, {_BEGIN_ANEW}"
    # The tickets may be as good as ever: the disk is what needs attention.
    return f"{_cause(error)}; see to the disk (space, permissions, the kernel's log), and start again"


def _name(error: sqlcipher.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _cause(error: sqlcipher.Error) -> str:
    return f"{error} ({_name(error)})"


def _store_error(error: sqlcipher.Error) -> StoreError:
    name = _name(error)
    # Extended names begin with the plain one: SQLITE_IOERR_FSYNC, SQLITE_READONLY_DBMOVED.
    code = next((code for plain, code in _ERRNO.items() if name.startswith(plain)), errno.EIO)
    return StoreError(_cause(error), code)
