"""Open the daemon's database from outside, to check or damage it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlcipher

KEY_SIZE = 32


def key_file(state_dir: Path) -> Path:
    """The only file of a key's size, except for write-ahead logs, which are as small when empty."""
    (found,) = (path for path in _files(state_dir) if path.stat().st_size == KEY_SIZE)
    return found


def database_file(state_dir: Path) -> Path:
    """The largest file, except for write-ahead logs."""
    return max(_files(state_dir), key=lambda path: path.stat().st_size)


def _files(state_dir: Path) -> list[Path]:
    return [path for path in state_dir.iterdir() if not path.name.endswith("-wal")]


@contextmanager
def open_database(state_dir: Path) -> Iterator[Any]:
    """A connection with the daemon's key, while no daemon runs; committed and closed at the end."""
    database = sqlcipher.connect(str(database_file(state_dir)))
    try:
        database.execute(f"PRAGMA key = \"x'{key_file(state_dir).read_bytes().hex()}'\"")
        database.execute("PRAGMA cipher_hmac_algorithm = HMAC_SHA256")
        yield database
        database.commit()
    finally:
        database.close()
