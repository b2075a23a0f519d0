"""The database as files: made, looked at and opened.

Opening looks before it touches: a key or file that is wrong is found by a connection that cannot write,
because an ordinary one would write to the files even on its way out.
"""

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.disk import sync_folder, why_refused
from pykcm.store.interface import StoreError, StoreUnusableError
from pykcm.store.keys import Key

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

# Up to this size, in bytes, a database is checked whole at start; beyond it, each page's HMAC is checked
# when the page is read.
_CHECKED_AT_START = 16 * 1024 * 1024

_ERRNO = {
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EROFS,
    "SQLITE_CANTOPEN": errno.EIO,
    "SQLITE_NOMEM": errno.ENOMEM,
}

_WAYS_OUT = {
    errno.ENOSPC: "; the disk is full: make room on it",
    errno.EROFS: "; its file system is read-only: see the kernel's log",
    errno.EIO: "; see to the disk and the kernel's log",
}

# The mode of the process that has the database: its connections share the write-ahead log's index in memory.
OWNED = "rw&vfs=unix-excl"

# Changes nothing, and writes a page.
COVER = f"PRAGMA user_version = {SCHEMA_VERSION}"

# How it is set, and how it reads then.
_SYNCHRONOUS = {"full": ("FULL", 2), "normal": ("NORMAL", 1)}

# Of the connection that only reads, in KiB.
_READER_CACHE = 2048

_BEGIN_ANEW = "or move the database away to begin with an empty one"


def connect(path: Path, key: Key, mode: str) -> Any:
    """A connection that has its key; raises sqlcipher.Error."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    # One thread uses it at a time, but not always the same.
    db = sqlcipher.connect(uri, uri=True, isolation_level=None, cached_statements=64, check_same_thread=False)
    try:
        # SQLCipher writes to stderr otherwise, and its messages say nothing that the exceptions do not.
        db.execute("PRAGMA cipher_log_level = NONE")
        db.execute(f"PRAGMA key = \"x'{key.raw.hex()}'\"")
        # As strong for pages of this size as the default, SHA-512, and twice as fast where the CPU knows it.
        # An SQLite that cannot encrypt would take the key in silence, but does not know this.
        set_pragma(db, "cipher_hmac_algorithm", "HMAC_SHA256", "HMAC_SHA256")
        if mode != OWNED:
            # One connection has it: no shared memory file, no lock for each transaction.
            set_pragma(db, "locking_mode", "EXCLUSIVE", "exclusive")
    except BaseException:
        db.close()
        raise
    return db


def connect_to_write(path: Path, key: Key, durability: str) -> Any:
    """The owner's connection, with all settings; raises sqlcipher.Error, UnfitError."""
    db = connect(path, key, OWNED)
    try:
        # Where SQLite could not open the file for writing it would make a file of shared memory.
        db.executescript(f"BEGIN; {COVER}; ROLLBACK")
        set_pragma(db, "journal_mode", "WAL", "wal")
        set_pragma(db, "synchronous", *_SYNCHRONOUS[durability])
        set_pragma(db, "secure_delete", "ON", 1)
        set_pragma(db, "temp_store", "MEMORY", 2)
        check_version(db)
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: Path, key: Key) -> Any:
    """The owner's second connection, for reads while the other one is busy; raises sqlcipher.Error."""
    db = connect(path, key, OWNED)
    try:
        set_pragma(db, "query_only", "ON", 1)
        set_pragma(db, "temp_store", "MEMORY", 2)
        set_pragma(db, "cache_size", f"-{_READER_CACHE}", -_READER_CACHE)
    except BaseException:
        db.close()
        raise
    return db


def set_pragma(db: Any, name: str, value: str, wanted: object) -> None:
    """Set it and read it back: SQLite takes an unknown or refused PRAGMA in silence.

    Raises sqlcipher.Error unless it then reads as `wanted`.
    """
    db.execute(f"PRAGMA {name} = {value}")
    rows = db.execute(f"PRAGMA {name}").fetchall()
    if rows != [(wanted,)]:
        raise sqlcipher.NotSupportedError(f"PRAGMA {name} = {value} has no effect: {rows}")


def schema_version(db: Any) -> int:
    [(version,)] = db.execute("PRAGMA user_version").fetchall()
    return int(version)


def has_tickets(path: Path) -> bool:
    """Whether there is a database, or what is left of one: then its key must be there, too."""
    return bool(size_of(path) or size_of(wal_of(path)))


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def create(path: Path, key: Key) -> None:
    # Whole and durable under another name first: a database that is there is a good one, with a schema and
    # a write-ahead log or none, and no rollback journal, wherever a first start was interrupted.
    unfinished = path.with_name(path.name + ".new")
    try:
        for ending in ("", "-journal", "-wal"):
            unfinished.with_name(unfinished.name + ending).unlink(missing_ok=True)
        with closing(connect(unfinished, key, "rwc")) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        unfinished.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreUnusableError(f"{error.filename or path}: {error.strerror}") from error


def inspect(path: Path, key: Key, *, ignores_wal: bool = False) -> None:
    """Raise StoreUnusableError unless the database can be read with this key, without changing a byte.

    `ignores_wal`: there is nothing to be read in it. SQLite would remove such a write-ahead log.
    """
    if not size_of(path):
        state = "empty" if path.exists() else "missing"
        raise StoreUnusableError(
            f"{path}: {state}, beside a write-ahead log that is not; put the database back, restore a "
            f"backup, or move {wal_of(path)} away to begin with an empty database"
        )
    closed_in_order = not size_of(wal_of(path))
    # Without locks the write-ahead log is read in memory; with them, it would need a file beside it.
    mode = "ro&immutable=1" if closed_in_order or ignores_wal else "ro&vfs=unix-none"
    try:
        with closing(connect(path, key, mode)) as db:
            check_version(db)
            if size_of(path) + size_of(wal_of(path)) <= _CHECKED_AT_START:
                check_pages(db, closed_in_order=closed_in_order)
    except UnfitError as error:
        raise StoreUnusableError(f"{path}: {error}") from None
    except sqlcipher.Error as error:
        raise StoreUnusableError(f"{path}: {cause_and_way_out(error, key)}") from error


class UnfitError(Exception):
    """A database that can be decrypted has a fault; the message says which, and the way out."""


def check_pages(db: Any, *, closed_in_order: bool) -> None:
    # After a crash a page of the database may be half written, and whole in the write-ahead log: then only
    # the page that a reader sees counts.
    damage = db.execute("PRAGMA cipher_integrity_check").fetchall() if closed_in_order else []
    damage += [row for row in db.execute("PRAGMA quick_check(1)").fetchall() if row != ("ok",)]
    if damage:
        raise UnfitError(f"damaged: {damage[0][0]}; restore a backup, {_BEGIN_ANEW}")


def check_version(db: Any) -> None:
    version = schema_version(db)
    if version > SCHEMA_VERSION:
        raise UnfitError(
            f"its schema is version {version}, made by a newer pykcm; this one knows up to "
            f"{SCHEMA_VERSION}: use the newer pykcm, {_BEGIN_ANEW}"
        )


def cause_and_way_out(error: sqlcipher.Error, key: Key) -> str:
    if error_name(error) == "SQLITE_NOTADB":
        return (
            f"cannot be decrypted: either {key.source} is not the key it was made with, or the file is "
            f"damaged; restore the right key or a backup, {_BEGIN_ANEW}"
        )
    if error_name(error).startswith("SQLITE_CORRUPT"):
        return f"{cause(error)}; restore a backup, {_BEGIN_ANEW}"
    # The tickets may be as good as ever: the disk is what needs attention.
    return f"{cause(error)}; see to the disk (space, permissions, the kernel's log), and start again"


def error_name(error: sqlcipher.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def cause(error: sqlcipher.Error) -> str:
    return f"{error} ({error_name(error)})"


def store_error(error: sqlcipher.Error, path: Path) -> StoreError:
    """The answer to an error in the database at `path`: which file, why, and what to do."""
    name = error_name(error)
    # Extended names begin with the plain one: SQLITE_IOERR_FSYNC, SQLITE_READONLY_DBMOVED.
    code = next((code for plain, code in _ERRNO.items() if name.startswith(plain)), errno.EIO)
    return StoreError(f"{path}: {cause(error)}{_WAYS_OUT.get(code, '')}", code)


def write_error(error: sqlcipher.Error, path: Path) -> StoreError:
    """As `store_error`, of something that writes: the disk is asked why it refused that."""
    name = error_name(error)
    # The errors of a copy by SQLite's backup API come without a name.
    if name.startswith("SQLITE_") and not name.startswith("SQLITE_IOERR"):
        return store_error(error, path)
    code = why_refused(path.parent)
    return StoreError(f"{path}: {cause(error)}: {os.strerror(code)}{_WAYS_OUT[code]}", code)


def file_error(error: OSError, path: Path) -> StoreError:
    """The answer to an error of the system's about the file that it names, or else `path`."""
    # EDQUOT is another's answer: to its user it says that a limit of pykcm's is reached.
    code = errno.ENOSPC if error.errno == errno.EDQUOT else error.errno or errno.EIO
    return StoreError(f"{error.filename or path}: {error.strerror}{_WAYS_OUT.get(code, '')}", code)
