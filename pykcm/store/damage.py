"""Changes in a write-ahead log that cannot be read: after a crash SQLite leaves them out in silence.

The format is that of https://sqlite.org/fileformat2.html#the_write_ahead_log.
"""

import logging
import os
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.database import journal_of

log = logging.getLogger(__name__)

# Magic number, version, page size, checkpoint's number, two salts, two checksums.
_HEADER = Struct(">IIIIIIII")
_CHECKED = 24

# Page's number, pages after a commit (0: no commit frame), two salts, two checksums; then comes the page.
_FRAME = Struct(">IIIIII")
_PAGE = 4096
_FRAME_SIZE = _FRAME.size + _PAGE

# The last bit tells the byte order of the words that are summed up.
_MAGIC = 0x377F0682

# More than the daemon ever has.
_MOST_FRAMES = 1_000_000

_Salts = tuple[int, int]


class Commits(NamedTuple):
    """The last frames, by their numbers from 1, of the changes that the journal was written with."""

    frames: list[int]

    def behind(self, last: int) -> int:
        """How many changes end behind the frame `last`."""
        return sum(frame > last for frame in self.frames)


def find_commits(path: Path) -> Commits:
    """Those in the journal of the database at `path`, readable or not; raises OSError.

    What an older generation of the journal has left behind its end does not count, nor does a change whose
    writing was not completed.
    """
    fd = os.open(journal_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        salts = _salts_of(os.pread(fd, _HEADER.size, 0))
        frames = []
        for number in range(1, _MOST_FRAMES):
            frame = os.pread(fd, _FRAME.size, _HEADER.size + (number - 1) * _FRAME_SIZE)
            if len(frame) < _FRAME.size:
                break
            _, pages, *found = _FRAME.unpack(frame)
            # The header is damaged where it has no salts: those of the first frame do as well.
            salts = salts or (found[0], found[1])
            if pages and salts == (found[0], found[1]):
                frames.append(number)
        return Commits(frames)
    finally:
        os.close(fd)


def _salts_of(header: bytes) -> _Salts | None:
    """The journal's salts; None where the header is damaged."""
    if len(header) < _HEADER.size:
        return None
    magic, _, size, _, first, second, *wanted = _HEADER.unpack(header)
    if magic & ~1 != _MAGIC or size != _PAGE:
        return None
    words = Struct((">" if magic & 1 else "<") + "6I").unpack(header[:_CHECKED])
    sums = [0, 0]
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sums[0] = (sums[0] + even + sums[1]) & 0xFFFFFFFF
        sums[1] = (sums[1] + odd + sums[0]) & 0xFFFFFFFF
    return (first, second) if sums == wanted else None


def tell_of_damage(path: Path, db: Any, commits: Commits) -> None:
    """Warn of changes that SQLite, which has opened the database, found no way to read."""
    try:
        # How many frames are valid, SQLite tells when it copies them into the database.
        [(_, last, _)] = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlcipher.Error as error:
        log.warning("%s: whether its journal is whole cannot be told: %s", path, error)
        return
    if number := commits.behind(max(last, 0)):
        log.warning(
            "%s: its journal, %s, was damaged: behind the last change in it that can be read there are %d "
            "more, which are left out, and tickets are as they were before. That is as it should be where "
            "the disk had refused these changes, or power was lost while the last one was written; otherwise "
            "see to the disk and the kernel's log",
            *(path, journal_of(path).name, number),
        )
