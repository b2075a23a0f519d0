"""The database's files: creating, checking and opening them.

Before they are opened, a connection that cannot write checks the key and the files. An ordinary connection
would change the files even if it finds a fault.
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

# In bytes: up to this size a database is checked completely at start. In a larger one, each page's HMAC is
# checked when the page is read.
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

# The mode of the daemon's connections: they share the index of the write-ahead log in memory.
OWNED = "rw&vfs=unix-excl"

# Writes a page and changes nothing.
COVER = f"PRAGMA user_version = {SCHEMA_VERSION}"

# PRAGMA synchronous by `durability`: the value to set, and the value that is read back.
_SYNCHRONOUS = {"full": ("FULL", 2), "normal": ("NORMAL", 1)}

# In bytes: the write-ahead log's header, the header of each of its frames, and the page that follows it.
WAL_HEADER_SIZE = 32
FRAME_HEADER_SIZE = 24
PAGE_SIZE = 4096

# The page cache of the connection that only reads, in KiB.
_READER_CACHE = 2048

_OR_BEGIN_EMPTY = "or move the database away to begin with an empty one"


def connect(path: Path, key: Key, mode: str) -> Any:
    """Connect with the key; raises sqlcipher.Error."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    # One thread at a time uses the connection, but not always the same one.
    db = sqlcipher.connect(uri, uri=True, isolation_level=None, cached_statements=64, check_same_thread=False)
    try:
        # Otherwise SQLCipher writes to stderr. Its messages add nothing to the exceptions.
        db.execute("PRAGMA cipher_log_level = NONE")
        db.execute(f"PRAGMA key = \"x'{key.raw.hex()}'\"")
        # For pages of this size it is as strong as the default, SHA-512, and twice as fast on many CPUs.
        # An SQLite without encryption accepts a key silently, but does not know this PRAGMA.
        set_pragma(db, "cipher_hmac_algorithm", "HMAC_SHA256", "HMAC_SHA256")
        if mode != OWNED:
            # There is one connection: it needs no file of shared memory, and no lock for each transaction.
            set_pragma(db, "locking_mode", "EXCLUSIVE", "exclusive")
    except BaseException:
        db.close()
        raise
    return db


def connect_to_write(path: Path, key: Key, durability: str) -> Any:
    """Open the daemon's connection that writes, with all settings; raises sqlcipher.Error, UnfitError."""
    db = connect(path, key, OWNED)
    try:
        # If SQLite cannot write to the file, this fails. Otherwise it would make a file of shared memory.
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
    """Open the daemon's second connection, for reads while the other one is busy; raises sqlcipher.Error."""
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
    """Set a PRAGMA and read it back, because SQLite silently ignores an unknown or refused one.

    Raises sqlcipher.Error unless its value then is `wanted`.
    """
    db.execute(f"PRAGMA {name} = {value}")
    rows = db.execute(f"PRAGMA {name}").fetchall()
    if rows != [(wanted,)]:
        raise sqlcipher.NotSupportedError(f"PRAGMA {name} = {value} has no effect: {rows}")


def schema_version(db: Any) -> int:
    [(version,)] = db.execute("PRAGMA user_version").fetchall()
    return int(version)


def has_tickets(path: Path) -> bool:
    """Whether there is a database, or a part of one: then its key must exist too."""
    return bool(size_of(path)) or has_frames(path)


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def has_frames(path: Path) -> bool:
    """Whether the write-ahead log has a first frame. A log of zeros has none, and no commits.

    A log that cannot be read counts as one with frames.
    """
    try:
        fd = os.open(wal_of(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return any(os.pread(fd, FRAME_HEADER_SIZE, WAL_HEADER_SIZE))
    except OSError:
        return True
    finally:
        os.close(fd)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def create(path: Path, key: Key) -> None:
    # The database is completed under another name first. Wherever a first start is interrupted, a database
    # under its own name is good: it has a schema, and no rollback journal.
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
    """Raise StoreUnusableError unless the database can be read with this key. It changes no byte.

    `ignores_wal`: the write-ahead log has no readable commit. SQLite would remove such a log.
    """
    if not size_of(path):
        state = "empty" if path.exists() else "missing"
        raise StoreUnusableError(
            f"{path}: {state}, beside a write-ahead log that is not; put the database back, restore a "
            f"backup, or move {wal_of(path)} away to begin with an empty database"
        )
    closed_in_order = not has_frames(path)
    # Without locks the index of the write-ahead log is in memory. With locks it would need another file.
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
    """A database that can be decrypted is damaged or too new; the message says what to do."""


def check_pages(db: Any, *, closed_in_order: bool) -> None:
    # After a crash a page may be incomplete in the database and complete in the write-ahead log. Then only
    # the pages that a reader sees count.
    damage = db.execute("PRAGMA cipher_integrity_check").fetchall() if closed_in_order else []
    damage += [row for row in db.execute("PRAGMA quick_check(1)").fetchall() if row != ("ok",)]
    if damage:
        raise UnfitError(f"damaged: {damage[0][0]}; restore a backup, {_OR_BEGIN_EMPTY}")


def check_version(db: Any) -> None:
    version = schema_version(db)
    if version > SCHEMA_VERSION:
        raise UnfitError(
            f"its schema is version {version}, made by a newer pykcm; this one knows up to "
            f"{SCHEMA_VERSION}: use the newer pykcm, {_OR_BEGIN_EMPTY}"
        )


def cause_and_way_out(error: sqlcipher.Error, key: Key) -> str:
    if error_name(error) == "SQLITE_NOTADB":
        return (
            f"cannot be decrypted: either {key.source} is not the key it was made with, or the file is "
            f"damaged; restore the right key or a backup, {_OR_BEGIN_EMPTY}"
        )
    if error_name(error).startswith("SQLITE_CORRUPT"):
        return f"{cause(error)}; restore a backup, {_OR_BEGIN_EMPTY}"
    # The tickets may be intact: the administrator must look at the disk.
    return f"{cause(error)}; see to the disk (space, permissions, the kernel's log), and start again"


def error_name(error: sqlcipher.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def cause(error: sqlcipher.Error) -> str:
    return f"{error} ({error_name(error)})"


def store_error(error: sqlcipher.Error, path: Path) -> StoreError:
    """Return the answer to an error in the database at `path`: which file, why, and what to do."""
    name = error_name(error)
    # Extended names begin with a plain one: SQLITE_IOERR_FSYNC, SQLITE_READONLY_DBMOVED.
    code = next((code for plain, code in _ERRNO.items() if name.startswith(plain)), errno.EIO)
    return StoreError(f"{path}: {cause(error)}{_WAYS_OUT.get(code, '')}", code)


def write_error(error: sqlcipher.Error, path: Path) -> StoreError:
    """Like `store_error`, but for a failed write: the disk is asked why it refused the write."""
    name = error_name(error)
    # Errors of SQLite's backup API have no name.
    if name.startswith("SQLITE_") and not name.startswith("SQLITE_IOERR"):
        return store_error(error, path)
    code = why_refused(path.parent)
    return StoreError(f"{path}: {cause(error)}: {os.strerror(code)}{_WAYS_OUT[code]}", code)


def file_error(error: OSError, path: Path) -> StoreError:
    """Return the answer to a system error about the file that it names, or else `path`."""
    # To users EDQUOT means that a quota of pykcm is reached.
    code = errno.ENOSPC if error.errno == errno.EDQUOT else error.errno or errno.EIO
    return StoreError(f"{error.filename or path}: {error.strerror}{_WAYS_OUT.get(code, '')}", code)
