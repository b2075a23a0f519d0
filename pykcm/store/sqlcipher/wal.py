"""The write-ahead log of an open database: copied into it, held, released.

SQLite would copy it in a COMMIT, for which the event loop may wait. Here that is done in a thread.
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
from pykcm.store.sqlcipher.database import OWNED, connect, set_pragma, size_of, wal_of, write_error
from pykcm.store.sqlcipher.disk_thread import DiskThread

# A log is long that has so many pages, SQLite's own default. It is copied before the next commit.
_LONG = 1000

# It is measured again after so many changes and pages.
_MEASURED_AFTER = 8
_PAGE = 4096

# Where the salts are, in the log's header and in the header of the frame that makes it long. Frames that an
# older generation of the log has left have other salts.
_SALTS_SIZE = 8
_SALTS = 16
_LAST_SALTS = 32 + (_LONG - 1) * (24 + _PAGE) + 8

# In bytes: a longer log is first copied in a thread of its own, while commits go on. This much takes about
# as long as a few commits.
_COPIED_AT_ONCE = 8 * 1024 * 1024

# The second one copies what was committed during the first.
_PASSES = 2


class WriteAheadLog:
    """The log of the database at `path`, which `db` writes, in `thread`.

    `descriptor`: the store's, of the database file. `has_copied` is called when a log that was released is
    copied. `is_restarting`: the next commit begins the log again, and syncs its header even with
    `durability = "normal"`.
    """

    def __init__(
        self,
        db: Any,
        path: Path,
        key: Key,
        thread: DiskThread,
        descriptor: Callable[[], int],
        has_copied: Callable[[], None],
    ) -> None:
        set_pragma(db, "wal_autocheckpoint", "0", 0)
        self.is_restarting = True
        self._db = db
        self._path = path
        self._key = key
        self._thread = thread
        self._descriptor = descriptor
        self._has_copied = has_copied
        self._reading: int | None = None
        # Changes and pages since it was found not to be long.
        self._unmeasured = 0
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
        """Whether a log that was released is still copied into the database."""
        return self._releasing is not None

    def has_grown(self, changes: int, size: int) -> None:
        """A commit of so many changes was written to it, of about `size` bytes."""
        self.is_restarting = False
        self._unmeasured += changes + size // _PAGE

    async def copy_if_long(self) -> None:
        """Copy a long log into the database. If that fails, the next commit tries it again."""
        if self._unmeasured < _MEASURED_AFTER or self._is_closed or self._is_held or self.is_copying:
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
        """Copy it into the database and make it a file of no bytes; raises StoreError."""
        try:
            [(is_busy, *_)] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlcipher.Error as error:
            raise write_error(error, self._path) from error
        if is_busy or self.size:
            raise StoreError(f"{self._path}: its write-ahead log cannot be copied into it; see to the disk")
        self.is_restarting = True

    def hold(self) -> None:
        """From now on the database file is left as it is, with all that was committed; raises StoreError."""
        self.empty()
        self._is_held = True

    def release(self) -> None:
        """Let the log be copied into the database again, which begins now."""
        self._is_held = False
        if self._releasing is None:
            self._releasing = asyncio.get_running_loop().create_task(self._release())

    async def copied(self, *, even_long: bool = True) -> None:
        """Wait until a log that was released is copied, as far as it can be."""
        if self._releasing is not None and (even_long or self.size <= _COPIED_AT_ONCE):
            await asyncio.wait([self._releasing])

    def close(self) -> None:
        """Wait for a copying that is under way; the database is closed next."""
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
                    # Where it fails, the next commits try it again.
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
            await asyncio.wait([asyncio.wrap_future(self._copying)])
        except RuntimeError:
            # No thread can be had.
            return
        finally:
            executor.shutdown(wait=False)
        # Where it has failed it is tried again, with the store's own connection.
        self._copying.exception()
        self._copying = None

    def _is_long(self) -> bool:
        try:
            if self._reading is None:
                self._reading = os.open(wal_of(self._path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            salts = os.pread(self._reading, _SALTS_SIZE, _SALTS)
            return bool(salts) and os.pread(self._reading, _SALTS_SIZE, _LAST_SALTS) == salts
        except OSError:
            return False


def copy_wal(path: Path, key: Key, descriptor: Callable[[], int]) -> None:
    """Copy it while the store goes on committing; raises sqlcipher.Error, OSError.

    `descriptor`: the store's, of the database. Closing another one would end the store's locks.
    """
    with closing(connect(path, key, OWNED)) as db:
        for _ in range(_PASSES):
            # The only way that never keeps a commit waiting.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            # SQLite leaves that to whoever copies the last of the log, who would wait for it.
            os.fsync(descriptor())
