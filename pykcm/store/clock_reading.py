"""The last reading of the clock, in a file of the state folder.

The reading belongs to this machine's clock and not to the tickets: no backup of the database has it.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from pykcm.store.disk import sync_folder

CLOCK = "clock"

# Seconds since the epoch, for 30,000 years.
_SECONDS = re.compile(rb"(\d{1,12})\n", re.ASCII)
_SIZE = 13


def read_clock_reading(folder: Path) -> int | None:
    """Return the seconds since the epoch; None if the file is missing, unreadable or invalid."""
    with suppress(OSError):
        fd = os.open(folder / CLOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            match = _SECONDS.fullmatch(os.read(fd, _SIZE + 1))
        finally:
            os.close(fd)
        return int(match[1]) if match else None
    return None


def last_written(*files: Path) -> int | None:
    """Return when one of the files was last written, in seconds since the epoch; None: no file exists.

    The clock was read then as well, so the time can replace a reading that was not kept.
    """
    times = []
    for file in files:
        with suppress(OSError):
            times.append(int(file.stat(follow_symlinks=False).st_mtime))
    return max(times, default=None)


def write_clock_reading(folder: Path, seconds: float) -> None:
    """Replace the last reading, and make the new one durable; raises OSError."""
    path = folder / CLOCK
    unfinished = path.with_name(f"{CLOCK}.new")
    # A link or a pipe of this name would lead to another place.
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"%d\n" % max(0, int(seconds)))
        os.fsync(fd)
    finally:
        os.close(fd)
    unfinished.rename(path)
    sync_folder(folder)
