"""The key rotation: the pending key in `key.next`, encrypted with the old key, and the recovery at a start.

Until the database has the new key, `key.next` is not needed. From then on the old key opens `key.next`, until
the new key is in its place. Therefore the key at hand opens the database at every moment, and the next start
completes or undoes an interrupted rotation.
"""

import logging
import os
from contextlib import closing, suppress
from pathlib import Path

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.disk import PENDING_KEY, sync_folder
from pykcm.store.keys import Key, is_replaceable, remove_unfinished_key, write_key
from pykcm.store.sqlcipher.database import connect, error_name, has_frames, has_tickets, size_of

log = logging.getLogger(__name__)


def pending_key_of(path: Path) -> Path:
    """Return the file of the pending key of the database at `path`."""
    return path.with_name(PENDING_KEY)


def unfinished_of(path: Path) -> Path:
    """Return the file of an incomplete database that will take the name `path`."""
    return path.with_name(path.name + ".new")


def _unfinished_pending_key_of(path: Path) -> Path:
    return path.with_name(f"{PENDING_KEY}.new")


def needs_recovery(path: Path) -> bool:
    """Whether a key rotation has left files of the pending key."""
    return pending_key_of(path).exists() or _unfinished_pending_key_of(path).exists()


def write_pending_key(path: Path, key: Key, raw: bytes) -> None:
    """Write the new key, encrypted with the old one and durable. Raises OSError, sqlcipher.Error."""
    unfinished = _unfinished_pending_key_of(path)
    unfinished.unlink(missing_ok=True)
    with closing(connect(unfinished, key, "rwc")) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE successor (key BLOB NOT NULL)")
        db.execute("INSERT INTO successor VALUES (?)", (raw,))
    unfinished.rename(pending_key_of(path))
    sync_folder(path.parent)


def remove_pending_key(path: Path) -> None:
    """Overwrite and remove the pending key, when it is in its place or not used; raises OSError."""
    pending_key = pending_key_of(path)
    with suppress(FileNotFoundError):
        # The old key, if it is stolen, must not give away the new one.
        with pending_key.open("r+b") as file:
            file.write(bytes(size_of(pending_key)))
            file.flush()
            os.fsync(file.fileno())
        pending_key.unlink()
        sync_folder(path.parent)


def remove_unfinished(path: Path) -> None:
    """Remove an incomplete copy; raises OSError."""
    unfinished = unfinished_of(path)
    for ending in ("", "-wal", "-journal"):
        unfinished.with_name(unfinished.name + ending).unlink(missing_ok=True)
    _unfinished_pending_key_of(path).unlink(missing_ok=True)


def finish(path: Path, key: Key, raw: bytes) -> Key:
    """Put the key that the database has now where the old one came from, if the daemon can.

    Returns the new key with its present file. Until it is in the place of the old one, both work.
    """
    if is_replaceable(key):
        try:
            write_key(key.source, raw)
        except OSError as error:
            log.error(  # noqa: TRY400
                "%s: the new key cannot be written: %s; the database has it nevertheless, and both the old "
                "key and %s open it: remove the cause and start the daemon again",
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
    """Complete or undo an interrupted key rotation at a start; returns the key that opens the database.

    Returns `key` also if neither key opens it; the start then reports that.
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
            "%s: an interrupted change of keys can be neither completed nor undone yet: %s; the next start "
            "tries again, see to the disk",
            *(path, error),
        )
        return key
    new = finish(path, key, raw)
    if new.source == key.source:
        log.info("%s: an interrupted change of keys was completed", path)
    else:
        log.warning(
            "%s: %s is the key from before the last rekey: put the new one in its place", path, key.source
        )
    return new


def _opens(path: Path, key: Key) -> bool:
    mode = "ro&vfs=unix-none" if has_frames(path) else "ro&immutable=1"
    try:
        with closing(connect(path, key, mode)) as db:
            db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except sqlcipher.DatabaseError as error:
        if error_name(error) == "SQLITE_NOTADB":
            return False
        raise
    return True


def _read_pending_key(path: Path, key: Key) -> bytes | None:
    """Read the pending key; returns None if it was not encrypted with `key`."""
    try:
        with closing(connect(pending_key_of(path), key, "ro&immutable=1")) as db:
            [(raw,)] = db.execute("SELECT key FROM successor").fetchall()
    except sqlcipher.DatabaseError as error:
        if error_name(error) == "SQLITE_NOTADB":
            return None
        raise
    return bytes(raw)
