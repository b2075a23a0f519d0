"""The files of a state folder: their names, and operations on the disk that SQLite does not do.

This module is small, because pykcmctl imports it without a store.
"""

import errno
import os
from pathlib import Path

DATABASE = "pykcm.db"
WAL = f"{DATABASE}-wal"

# The daemon's own key, in raw bytes, and the systemd credential that may replace it.
KEY = "key"
KEY_SIZE = 32
CREDENTIAL = "pykcm.key"

# Behind the name of a shared store's key: the key that follows it.
NEXT = ".next"

# The new key during a change of keys, until it is in the place of the old one.
PENDING_KEY = "key.next"

_BLOCK = bytes(4096)

# To users EDQUOT means that a quota of pykcm is reached.
_ANSWERS = {errno.ENOSPC: errno.ENOSPC, errno.EDQUOT: errno.ENOSPC, errno.EROFS: errno.EROFS}


def sync_folder(path: Path) -> None:
    """Make the folder's list of files durable; raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_file(path: Path) -> None:
    """Make the file's contents durable; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def why_refused(folder: Path) -> int:
    """Return why the disk has refused a write: ENOSPC, EROFS, else EIO.

    SQLite reports only EIO. Therefore this writes again, to a file that never gets a name.
    """
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, _BLOCK)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return _ANSWERS.get(error.errno or 0, errno.EIO)
    return errno.EIO
