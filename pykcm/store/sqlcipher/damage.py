"""Unreadable commits in a write-ahead log: after a crash SQLite ignores them silently.

The format is documented in https://sqlite.org/fileformat2.html#the_write_ahead_log.
"""

import logging
import os
from pathlib import Path
from struct import Struct, iter_unpack
from typing import Any

import msgspec
from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.sqlcipher.database import PAGE_SIZE, wal_of

log = logging.getLogger(__name__)

# Magic number, version, page size, number of the checkpoint, two salts, two checksums of what is before them.
_HEADER = Struct(">IIIIIIII")
_CHECKED = 24

# Number of the page, pages after a commit (0: not a commit's last frame), two salts, two checksums. The page
# follows.
_FRAME = Struct(">IIIIII")
_FRAME_SIZE = _FRAME.size + PAGE_SIZE

# The last bit gives the byte order of the words in the checksums.
_MAGIC = 0x377F0682

# More frames than the daemon's log ever has.
_MOST_FRAMES = 1_000_000

_Sums = tuple[int, int]


class Commits(msgspec.Struct, frozen=True):
    """The last frame of each commit in a write-ahead log, as numbers from 1.

    `is_readable`: whether SQLite finds a commit. It removes a write-ahead log in which it finds none.
    """

    frames: list[int]
    is_readable: bool

    def after(self, last: int) -> int:
        """Return how many commits end after the frame `last`."""
        return sum(frame > last for frame in self.frames)


def find_commits(path: Path) -> Commits:
    """Find the commits, readable or not, in the write-ahead log of the database at `path`; raises OSError.

    Frames of an older generation of the log do not count, nor do commits that were not completely written.
    """
    fd = os.open(wal_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        header = os.pread(fd, _HEADER.size, 0)
        is_whole = _is_whole(header)
        # A damaged header may have wrong salts. The first frame has the same salts.
        salts = header[16:24] if is_whole else os.pread(fd, 8, _HEADER.size + 8)
        frames = []
        for number in range(1, _MOST_FRAMES):
            frame = os.pread(fd, _FRAME.size, _HEADER.size + (number - 1) * _FRAME_SIZE)
            if len(frame) < _FRAME.size:
                break
            _, pages, *_ = _FRAME.unpack(frame)
            if pages and frame[8:16] == salts:
                frames.append(number)
        is_readable = is_whole and bool(frames) and _are_whole(fd, header, frames[0])
        return Commits(frames, is_readable)
    finally:
        os.close(fd)


def _is_whole(header: bytes) -> bool:
    if len(header) < _HEADER.size:
        return False
    magic, _, size, *_, first, second = _HEADER.unpack(header)
    if magic & ~1 != _MAGIC or size != PAGE_SIZE:
        return False
    return _summed(header[:_CHECKED], magic, (0, 0)) == (first, second)


def _are_whole(fd: int, header: bytes, last: int) -> bool:
    """Whether the frames up to `last` are complete; `header` is."""
    magic, *_, first, second = _HEADER.unpack(header)
    sums = (first, second)
    for number in range(1, last + 1):
        frame = os.pread(fd, _FRAME_SIZE, _HEADER.size + (number - 1) * _FRAME_SIZE)
        if len(frame) < _FRAME_SIZE or frame[8:16] != header[16:24]:
            return False
        # The checksums cover the first two numbers of the frame's header, and the page.
        sums = _summed(frame[:8] + frame[_FRAME.size :], magic, sums)
        if _FRAME.unpack_from(frame)[4:] != sums:
            return False
    return True


def _summed(data: bytes, magic: int, sums: _Sums) -> _Sums:
    """Continue the checksums `sums` over `data`."""
    words = iter_unpack((">" if magic & 1 else "<") + "II", data)
    even_sum, odd_sum = sums
    for even, odd in words:
        even_sum = (even_sum + even + odd_sum) & 0xFFFFFFFF
        odd_sum = (odd_sum + odd + even_sum) & 0xFFFFFFFF
    return even_sum, odd_sum


def report_damage(path: Path, db: Any, commits: Commits) -> None:
    """Warn of commits that SQLite could not read when it opened the database."""
    try:
        # A checkpoint returns the number of valid frames.
        [(_, last, _)] = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlcipher.Error as error:
        log.warning("%s: it is unknown whether its write-ahead log is damaged: %s", path, error)
        return
    if number := commits.after(max(last, 0)):
        log.warning(
            "%s: its write-ahead log, %s, is damaged: after its last readable commit there are %d more, "
            "which are lost. This is expected if the disk had refused these commits, or if power was lost "
            "during the last one; otherwise see to the disk and the kernel's log",
            *(path, wal_of(path).name, number),
        )
