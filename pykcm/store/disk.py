"""Operations on the disk that SQLite does not do."""

import errno
import os
from pathlib import Path

_BLOCK = bytes(4096)

# EDQUOT is another's answer: to its user it says that a limit of pykcm's is reached.
_ANSWERS = {errno.ENOSPC: errno.ENOSPC, errno.EDQUOT: errno.ENOSPC, errno.EROFS: errno.EROFS}


def sync_folder(path: Path) -> None:
    """Make durable which files the folder has; raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_file(path: Path) -> None:
    """Make durable what was written to the file; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def why_refused(folder: Path) -> int:
    """ENOSPC, EROFS or else EIO: why the disk has refused a write.

    SQLite tells EIO alone, and so the disk is asked again, with a file that never gets a name.
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
