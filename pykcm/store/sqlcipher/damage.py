"""Changes in a write-ahead log that cannot be read: after a crash SQLite leaves them out in silence.

The format is that of https://sqlite.org/fileformat2.html#the_write_ahead_log.
"""

import logging
import os
from pathlib import Path
from struct import Struct, iter_unpack
from typing import Any, NamedTuple

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.sqlcipher.database import wal_of

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

_Sums = tuple[int, int]


class Commits(NamedTuple):
    """The last frames, by their numbers from 1, of the changes that the write-ahead log was written with.

    `is_readable`: whether SQLite finds any change in it. It removes a write-ahead log in which it finds none.
    """

    frames: list[int]
    is_readable: bool

    def behind(self, last: int) -> int:
        """How many changes end behind the frame `last`."""
        return sum(frame > last for frame in self.frames)


def find_commits(path: Path) -> Commits:
    """Those in the write-ahead log of the database at `path`, readable or not; raises OSError.

    Frames that an older generation of the log has left behind its end do not count, nor does a change whose
    writing was not completed.
    """
    fd = os.open(wal_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        header = os.pread(fd, _HEADER.size, 0)
        is_whole = _is_whole(header)
        # A damaged header may have other salts: those of the first frame do as well.
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
    if magic & ~1 != _MAGIC or size != _PAGE:
        return False
    return _summed(header[:_CHECKED], magic, (0, 0)) == (first, second)


def _are_whole(fd: int, header: bytes, last: int) -> bool:
    """Whether the frames up to this one are, behind a header that is."""
    magic, *_, first, second = _HEADER.unpack(header)
    sums = (first, second)
    for number in range(1, last + 1):
        frame = os.pread(fd, _FRAME_SIZE, _HEADER.size + (number - 1) * _FRAME_SIZE)
        if len(frame) < _FRAME_SIZE or frame[8:16] != header[16:24]:
            return False
        # Of a frame's header its page's number and the pages after the commit, and then the page.
        sums = _summed(frame[:8] + frame[_FRAME.size :], magic, sums)
        if _FRAME.unpack_from(frame)[4:] != sums:
            return False
    return True


def _summed(data: bytes, magic: int, sums: _Sums) -> _Sums:
    """The checksums of the format, going on from `sums`."""
    words = iter_unpack((">" if magic & 1 else "<") + "II", data)
    even_sum, odd_sum = sums
    for even, odd in words:
        even_sum = (even_sum + even + odd_sum) & 0xFFFFFFFF
        odd_sum = (odd_sum + odd + even_sum) & 0xFFFFFFFF
    return even_sum, odd_sum


def report_damage(path: Path, db: Any, commits: Commits) -> None:
    """Warn of changes that SQLite, which has opened the database, found no way to read."""
    try:
        # How many frames are valid, SQLite tells when it copies them into the database.
        [(_, last, _)] = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlcipher.Error as error:
        log.warning("%s: whether its write-ahead log is whole cannot be told: %s", path, error)
        return
    if number := commits.behind(max(last, 0)):
        log.warning(
            "%s: its write-ahead log, %s, was damaged: behind the last change in it that can be read there "
            "are %d more, which are left out, and tickets are as they were before. That is as it should be "
            "where the disk had refused these changes, or power was lost while the last one was written; "
            "otherwise see to the disk and the kernel's log",
            *(path, wal_of(path).name, number),
        )
