"""The new key while it succeeds the old one: kept beside the database, encrypted with the old key.

Until the database has taken the new key, `key.next` is of no use; from then on until the new key stands where
the old one came from, whoever has the old key finds the new one there. So at every moment the key that is at
hand opens the database, and what was interrupted is brought to its end, or taken back, at the next start.
"""

import logging
import os
from contextlib import closing, suppress
from pathlib import Path

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.disk import sync_folder
from pykcm.store.keys import Key, is_replaceable, remove_unfinished_key, write_key
from pykcm.store.names import PENDING_KEY
from pykcm.store.sqlcipher.database import connect, error_name, has_tickets, size_of, wal_of

log = logging.getLogger(__name__)


def pending_key_of(path: Path) -> Path:
    """Where the new key of the database at `path` is kept."""
    return path.with_name(PENDING_KEY)


def unfinished_of(path: Path) -> Path:
    """Where a database is made that is to take the name `path`."""
    return path.with_name(path.name + ".new")


def _unfinished_pending_key_of(path: Path) -> Path:
    return path.with_name(f"{PENDING_KEY}.new")


def needs_recovery(path: Path) -> bool:
    """Whether a change of keys has left anything behind."""
    return pending_key_of(path).exists() or _unfinished_pending_key_of(path).exists()


def write_pending_key(path: Path, key: Key, raw: bytes) -> None:
    """Keep the new key for whoever has the old one; durable. Raises OSError, sqlcipher.Error."""
    successor = pending_key_of(path)
    unfinished = _unfinished_pending_key_of(path)
    unfinished.unlink(missing_ok=True)
    with closing(connect(unfinished, key, "rwc")) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE successor (key BLOB NOT NULL)")
        db.execute("INSERT INTO successor VALUES (?)", (raw,))
    unfinished.rename(successor)
    sync_folder(path.parent)


def remove_pending_key(path: Path) -> None:
    """The new key is where it belongs, or nowhere in use; raises OSError."""
    successor = pending_key_of(path)
    with suppress(FileNotFoundError):
        # A thief of the old key must not find the new one with it.
        with successor.open("r+b") as file:
            file.write(bytes(size_of(successor)))
            file.flush()
            os.fsync(file.fileno())
        successor.unlink()
        sync_folder(path.parent)


def remove_unfinished(path: Path) -> None:
    """Remove an incomplete copy; raises OSError."""
    unfinished = unfinished_of(path)
    for ending in ("", "-wal", "-journal"):
        unfinished.with_name(unfinished.name + ending).unlink(missing_ok=True)
    _unfinished_pending_key_of(path).unlink(missing_ok=True)


def finish(path: Path, key: Key, raw: bytes) -> Key:
    """The database has taken the new key: put it where the old one came from, if the daemon can.

    Gives the new key with the place where it is now; until it is in the other's place, both work.
    """
    if is_replaceable(key):
        try:
            write_key(key.source, raw)
        except OSError as error:
            log.error(  # noqa: TRY400
                "%s: cannot take the new key: %s; the database has it all the same, and both the old key and "
                "%s open it: mend the cause and start the daemon again",
                *(key.source, error.strerror, pending_key_of(path)),
            )
        else:
            _tidy_up(path)
            return Key(raw, key.source)
    return Key(raw, pending_key_of(path))


def _tidy_up(path: Path) -> None:
    try:
        remove_unfinished(path)
        remove_pending_key(path)
    except OSError as error:
        log.error(  # noqa: TRY400
            "%s: cannot be removed: %s; the next start tries again", pending_key_of(path), error.strerror
        )


def recover(path: Path, key: Key) -> Key:
    """At start: bring a change of keys that was begun to its end, or take it back; gives the key that opens.

    Where neither the key nor its successor does, that is for the start to find.
    """
    try:
        if not has_tickets(path) or _opens(path, key):
            if is_replaceable(key):
                remove_unfinished_key(key.source)
            remove_unfinished(path)
            remove_pending_key(path)
            return key
        raw = _read_pending_key(path, key)
        if raw is None or not _opens(path, Key(raw, key.source)):
            return key
    except (OSError, sqlcipher.Error) as error:
        log.warning(
            "%s: a change of keys that was begun cannot be ended or taken back yet: %s; the next start tries "
            "again, see to the disk",
            *(path, error),
        )
        return key
    settled = finish(path, key, raw)
    if settled.source == key.source:
        log.info("%s: the change of keys that was begun has come to its end", path)
    else:
        log.warning(
            "%s: %s is the key from before the last rekey: put the new one in its place", path, key.source
        )
    return settled


def _opens(path: Path, key: Key) -> bool:
    mode = "ro&vfs=unix-none" if size_of(wal_of(path)) else "ro&immutable=1"
    try:
        with closing(connect(path, key, mode)) as db:
            db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except sqlcipher.DatabaseError as error:
        if error_name(error) == "SQLITE_NOTADB":
            return False
        raise
    return True


def _read_pending_key(path: Path, key: Key) -> bytes | None:
    """None where the key is not the one that it was written for."""
    try:
        with closing(connect(pending_key_of(path), key, "ro&immutable=1")) as db:
            [(raw,)] = db.execute("SELECT key FROM successor").fetchall()
    except sqlcipher.DatabaseError as error:
        if error_name(error) == "SQLITE_NOTADB":
            return None
        raise
    return bytes(raw)
