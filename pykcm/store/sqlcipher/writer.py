"""The connection that writes: transactions, in the event loop or with their sync in a thread.

SQLite lets one thread at a time use a connection: meanwhile the event loop reads with another one.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.interface import StoreError
from pykcm.store.sqlcipher.database import COVER, write_error
from pykcm.store.sqlcipher.disk_thread import DiskThread
from pykcm.store.sqlcipher.statements import Applier
from pykcm.store.sqlcipher.wal import WriteAheadLog
from pykcm.store.tree import DeleteContainer, SecretChange

# In bytes: encrypting and writing so much takes longer than handing it to a thread.
_LARGE = 64 * 1024

# Changes of a large transaction are made for so long in one iteration of the event loop, in seconds.
_SLICE = 0.002

# A disk is fast if COMMIT took at most so many seconds, with so many exceptions among so many.
_FAST = 0.001
_SLOW_ONES = 1
_WATCHED = 16

# Until it is tried again, in seconds.
_COVERED_AGAIN_AFTER = 1.0

# A change, and how many ccaches it has made more, or less where that is negative.
Counted = tuple[SecretChange, int]


class Writer:
    """Makes transactions with the connection `db`. The caller has the lock of `thread`."""

    def __init__(self, db: Any, path: Path, wal: WriteAheadLog, thread: DiskThread) -> None:
        self._db = db
        self._path = path
        self._wal = wal
        self._thread = thread
        self._applier = Applier(db)
        self._pace = _Pace()
        self._covering: asyncio.TimerHandle | None = None
        self._cover_task: asyncio.Task[None] | None = None

    async def transact(self, changes: Sequence[SecretChange], size: int) -> list[Counted]:
        """Make the changes durable, or none of them; raises StoreError.

        `size`: the bytes that they write and delete, about. Gives the changes that made ccaches more or less.
        """
        self._thread.is_busy = True
        may_be_written = False
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if size < _LARGE:
                counted = [(change, more) for change in changes if (more := self._applier.apply(change))]
            else:
                counted = await self._apply_in_slices(changes)
            may_be_written = True
            if size < _LARGE and self._pace.is_fast and not self._wal.is_restarting:
                self._commit()
            else:
                await self._thread.run(self._commit)
        except sqlcipher.Error as error:
            raise await self._refuse(error, may_be_written=may_be_written) from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._thread.is_busy = False
        self._wal.has_grown(len(changes), size)
        return counted

    def close(self, *, covers: bool) -> None:
        """The connection is closed next. `covers`: write over a refused commit first, as far as it can be."""
        with suppress(sqlcipher.Error):
            self._roll_back()
        if covers and self._covering is not None:
            self._covers()
        self._stop_covering()

    async def _apply_in_slices(self, changes: Sequence[SecretChange]) -> list[Counted]:
        counted = []
        end = perf_counter() + _SLICE
        for change in changes:
            apply = partial(self._applier.apply, change)
            # It may overwrite megabytes in one statement. Others are so many that handing each to the thread
            # would take longer.
            more = await self._thread.run(apply) if isinstance(change, DeleteContainer) else apply()
            if more:
                counted.append((change, more))
            if perf_counter() > end:
                await asyncio.sleep(0)
                end = perf_counter() + _SLICE
        return counted

    def _commit(self) -> None:
        begun = perf_counter()
        self._db.execute("COMMIT")
        self._pace.add(perf_counter() - begun)

    async def _refuse(self, error: sqlcipher.Error, *, may_be_written: bool) -> StoreError:
        """Take the transaction back; gives the answer to the error that it ended with."""
        self._roll_back()
        if may_be_written:
            await self._cover()
        # It asks the disk.
        return await self._thread.run(partial(write_error, error, self._path))

    def _roll_back(self) -> None:
        # Remembered containers may never have been committed.
        self._applier.forget()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    async def _cover(self) -> None:
        """Write over what the write-ahead log has of a refused commit, now or as soon as it can be done.

        When the sync fails, SQLite forgets the commit, but in the log it is whole: a crash before something
        else is written in that place would bring it back. The next commit may write nothing.
        """
        self._stop_covering()
        if not await self._thread.run(self._covers):
            self._covering = asyncio.get_running_loop().call_later(_COVERED_AGAIN_AFTER, self._begin_to_cover)

    def _begin_to_cover(self) -> None:
        self._cover_task = asyncio.get_running_loop().create_task(self._cover_again())

    async def _cover_again(self) -> None:
        async with self._thread.lock:
            if self._covering is not None:
                await self._cover()

    def _covers(self) -> bool:
        try:
            self._db.execute(COVER)
        except sqlcipher.Error:
            return False
        return True

    def _stop_covering(self) -> None:
        if self._covering is not None:
            self._covering.cancel()
            self._covering = None


class _Pace:
    """Whether COMMIT was fast the last times. Until there were so many, it is slow."""

    def __init__(self) -> None:
        self._slow = deque([True] * _WATCHED, _WATCHED)
        self._number = _WATCHED

    @property
    def is_fast(self) -> bool:
        return self._number <= _SLOW_ONES

    def add(self, seconds: float) -> None:
        is_slow = seconds > _FAST
        self._number += is_slow - self._slow[0]
        self._slow.append(is_slow)
