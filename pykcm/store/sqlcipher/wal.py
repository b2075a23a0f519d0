"""Checkpoints of an open database: its write-ahead log is copied into it, or held and released.

SQLite would make a checkpoint in a COMMIT, for which the event loop may wait. Here a thread does it.
"""

import asyncio
import concurrent.futures
import os
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.interface import StoreError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import (
    FRAME_HEADER_SIZE,
    OWNED,
    PAGE_SIZE,
    WAL_HEADER_SIZE,
    connect,
    set_pragma,
    size_of,
    wal_of,
    write_error,
)
from pykcm.store.sqlcipher.disk_thread import DiskThread

# A log of this many pages is long, as SQLite's own default has it. It is copied after the commit.
_LONG = 1000

# The log is measured again after this many changes and pages.
_MEASURED_AFTER = 8

# The places of the salts: in the log's header, and in the header of the frame that makes the log long. Frames
# of an older generation of the log have other salts.
_SALTS_SIZE = 8
_SALTS = 16
_FRAME_SIZE = FRAME_HEADER_SIZE + PAGE_SIZE
_LAST_SALTS = WAL_HEADER_SIZE + (_LONG - 1) * _FRAME_SIZE + 8

# In bytes: if a commit has extended the file, a slice of zeros is added, up to the full size. A log that is
# shorter than the first value is not extended. To write and sync two pages takes 135 µs within the file, and
# 230 µs if it grows.
_EXTENDED_FROM = 64 * 1024
_EXTENDED_BY = 256 * 1024
_FULL_SIZE = WAL_HEADER_SIZE + (_LONG + 100) * _FRAME_SIZE

# In bytes: on a disk with less room the file is not extended.
_ROOM = 64 * 1024 * 1024

# In bytes: a larger log is first copied in another thread, while commits go on. Copying this much takes about
# as long as a few commits.
_COPIED_AT_ONCE = 8 * 1024 * 1024

# The second pass copies the commits made during the first.
_PASSES = 2


class WriteAheadLog:
    """The log of the database at `path`, which `db` writes; its checkpoints run in `thread`.

    `descriptor`: the store's descriptor of the database file. `has_copied` is called when a released log has
    been copied. `is_restarting`: the next commit begins the log again, and syncs its header even with
    `durability = "normal"`. `may_extend` tells whether the file may get its full size before commits need it.
    """

    def __init__(
        self,
        db: Any,
        path: Path,
        key: Key,
        thread: DiskThread,
        descriptor: Callable[[], int],
        has_copied: Callable[[], None],
        *,
        may_extend: Callable[[], bool],
    ) -> None:
        set_pragma(db, "wal_autocheckpoint", "0", 0)
        self.is_restarting = True
        self._db = db
        self._path = path
        self._file = wal_of(path)
        self._key = key
        self._thread = thread
        self._descriptor = descriptor
        self._has_copied = has_copied
        self._reading: int | None = None
        # Changes and pages since the last time that the log was not long.
        self._unmeasured = 0
        self._may_extend = may_extend
        # The size up to which commits do not extend the file, except to its full size.
        self._extended = _EXTENDED_FROM
        self._is_held = False
        self._is_closed = False
        self._releasing: asyncio.Task[None] | None = None
        self._copying: concurrent.futures.Future[None] | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return size_of(wal_of(self._path))

    @property
    def is_copying(self) -> bool:
        """Whether a released log is still being copied into the database."""
        return self._releasing is not None

    def has_grown(self, changes: int, size: int) -> None:
        """Count a commit of this many changes and about `size` bytes."""
        self.is_restarting = False
        self._unmeasured += changes + size // PAGE_SIZE

    async def maintain(self) -> None:
        """Copy a long log into the database, and extend a file that has grown.

        If the copying fails, the next commit tries again.
        """
        if self._is_closed or self._is_held or self.is_copying:
            return
        if self._extended < _FULL_SIZE and self._may_extend():
            await self._extend_if_grown()
        if self._unmeasured < _MEASURED_AFTER:
            return
        if self._is_long():
            await self._thread.run(self._copy)
        else:
            self._unmeasured = 0

    def _copy(self) -> None:
        with suppress(sqlcipher.Error):
            [(_, pages, copied)] = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self.is_restarting = pages == copied

    def empty(self) -> None:
        """Copy the log into the database and truncate it to 0 bytes; raises StoreError."""
        try:
            [(is_busy, *_)] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlcipher.Error as error:
            raise write_error(error, self._path) from error
        if is_busy or self.size:
            raise StoreError(f"{self._path}: its write-ahead log cannot be copied into it; see to the disk")
        self.is_restarting = True
        self._extended = _EXTENDED_FROM

    def hold(self) -> None:
        """Let the database file, with all commits in it, not change until `release`; raises StoreError."""
        self.empty()
        self._is_held = True

    def release(self) -> None:
        """Allow checkpoints again; the first one begins now."""
        self._is_held = False
        if self._releasing is None:
            self._releasing = asyncio.get_running_loop().create_task(self._release())

    async def copied(self, *, even_long: bool = True) -> None:
        """Wait until a released log is copied, as far as that is possible."""
        if self._releasing is not None and (even_long or self.size <= _COPIED_AT_ONCE):
            await asyncio.wait([self._releasing])

    def close(self) -> None:
        """Wait for a running checkpoint; the database is closed next."""
        self._is_closed = True
        if self._copying is not None:
            concurrent.futures.wait([self._copying])
        self._releasing = None
        if self._reading is not None:
            os.close(self._reading)
            self._reading = None

    async def _release(self) -> None:
        try:
            if self.size > _COPIED_AT_ONCE:
                await self._copy_while_others_commit()
            async with self._thread.lock:
                if not self._is_closed:
                    # If it fails, the next commits try again.
                    with suppress(StoreError):
                        await self._thread.run(self.empty)
        finally:
            if not self._is_closed:
                self._releasing = None
                self._has_copied()

    async def _copy_while_others_commit(self) -> None:
        executor = concurrent.futures.ThreadPoolExecutor(1)
        try:
            self._copying = executor.submit(copy_wal, self._path, self._key, self._descriptor)
            copying = asyncio.wrap_future(self._copying)
            await asyncio.wait([copying])
        except RuntimeError:
            # No thread is available.
            return
        finally:
            executor.shutdown(wait=False)
        self._copying = None
        # If it has failed, the store's connection tries again. The event loop must not log the exception.
        copying.exception()

    async def _extend_if_grown(self) -> None:
        with suppress(OSError):
            if os.stat(self._file).st_size > self._extended:  # noqa: PTH116 - the fastest way
                await self._thread.run(self._extend)

    def _extend(self) -> None:
        """Write zeros behind the log, which the next commit syncs. For SQLite they are the end of the log."""
        # Unless this succeeds, commits extend the file until the log is emptied.
        self._extended = _FULL_SIZE
        with suppress(OSError):
            fd = os.open(self._file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._extended = _write_zeros(fd)
            finally:
                os.close(fd)

    def _is_long(self) -> bool:
        try:
            if self._reading is None:
                self._reading = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            salts = os.pread(self._reading, _SALTS_SIZE, _SALTS)
            return any(salts) and os.pread(self._reading, _SALTS_SIZE, _LAST_SALTS) == salts
        except OSError:
            return False


def _write_zeros(fd: int) -> int:
    """Extend the file by the next slice; returns the size up to which it is extended. Raises OSError."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize < _ROOM:
        return _FULL_SIZE
    size = at = os.fstat(fd).st_size
    end = min(size + _EXTENDED_BY, _FULL_SIZE)
    try:
        while at < end:
            at += os.pwrite(fd, bytes(end - at), at)
    except OSError:
        # Commits may need this room.
        os.ftruncate(fd, size)
        raise
    return at


def copy_wal(path: Path, key: Key, descriptor: Callable[[], int]) -> None:
    """Copy the log while the store commits; raises sqlcipher.Error, OSError.

    `descriptor`: the store's descriptor of the database. Closing another one would end the store's locks.
    """
    with closing(connect(path, key, OWNED)) as db:
        for _ in range(_PASSES):
            # Only a passive checkpoint never makes a commit wait.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            # SQLite leaves this sync to the connection that copies the end of the log, which would then wait.
            os.fsync(descriptor())
