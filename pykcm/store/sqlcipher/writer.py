"""The connection that writes: transactions in the event loop, or with their sync in a thread.

Only one thread at a time may use a connection. Meanwhile the event loop reads with another one.
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

# In bytes: encrypting and writing a larger transaction takes longer than the switch to a thread.
_LARGE = 64 * 1024

# In seconds: the time for the changes of a large transaction in one iteration of the event loop.
_SLICE = 0.002

# A COMMIT of at most this many seconds is fast. The disk is fast if at most _SLOW_ONES of the last _WATCHED
# COMMITs were slow.
_FAST = 0.002
_SLOW_ONES = 1
_WATCHED = 16

# Seconds until the next attempt.
_COVERED_AGAIN_AFTER = 1.0

# A change, and how many ccaches it has added; negative: how many it has removed.
Counted = tuple[SecretChange, int]


class Writer:
    """Makes transactions with the connection `db`. The caller holds the lock of `thread`."""

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
        """Make all changes durable or none; raises StoreError.

        `size`: about how many bytes they write and delete. Returns the changes that added or removed ccaches.
        """
        self._thread.is_busy = True
        may_be_written = False
        commits_here = size < _LARGE and self._pace.is_fast and not self._wal.is_restarting
        try:
            if commits_here and len(changes) == 1 and self._applier.is_one_statement(changes[0]):
                may_be_written = True
                counted = self._commit_one_statement(changes[0])
            else:
                self._db.execute("BEGIN IMMEDIATE")
                if size < _LARGE:
                    counted = [(change, more) for change in changes if (more := self._applier.apply(change))]
                else:
                    counted = await self._apply_in_slices(changes)
                may_be_written = True
                if commits_here:
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
        """Prepare for closing the connection. `covers`: overwrite a refused commit, if that is possible."""
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
            # A DeleteContainer may overwrite megabytes in one statement. The other changes are small and
            # many: a switch to the thread for each would take longer.
            more = await self._thread.run(apply) if isinstance(change, DeleteContainer) else apply()
            if more:
                counted.append((change, more))
            if perf_counter() > end:
                await asyncio.sleep(0)
                end = perf_counter() + _SLICE
        return counted

    def _commit_one_statement(self, change: SecretChange) -> list[Counted]:
        # Without BEGIN and COMMIT it is a transaction by itself: 10 µs less of a STORE's 150.
        begun = perf_counter()
        self._applier.apply(change)
        self._pace.add(perf_counter() - begun)
        return []

    def _commit(self) -> None:
        begun = perf_counter()
        self._db.execute("COMMIT")
        self._pace.add(perf_counter() - begun)

    async def _refuse(self, error: sqlcipher.Error, *, may_be_written: bool) -> StoreError:
        """Roll the transaction back; returns the answer to the error that ended it."""
        self._roll_back()
        if may_be_written:
            await self._cover()
        # In the thread, because `write_error` asks the disk.
        return await self._thread.run(partial(write_error, error, self._path))

    def _roll_back(self) -> None:
        # Perhaps the remembered containers were never committed.
        self._applier.forget()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    async def _cover(self) -> None:
        """Overwrite a refused commit in the write-ahead log, now or as soon as that is possible.

        When the sync fails, SQLite forgets the commit, but the log still has all of it. A crash would bring
        it back, unless its place has been overwritten. The next commit does not always do that.
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
    """Measures whether the last COMMITs were fast. Those that have not happened yet count as slow."""

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
