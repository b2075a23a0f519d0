"""Copying the database while it is in use: its file stands still, and work on it is done beside the loop."""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, Self

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.disk import sync_file
from pykcm.store.interface import StoreError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import (
    UnfitError,
    check_pages,
    check_version,
    connect,
    file_error,
    store_error,
    write_error,
)
from pykcm.store.sqlcipher.pacing import WritePacer, weight_of
from pykcm.store.sqlcipher.wal import WriteAheadLog
from pykcm.store.tree import SecretChange, uid_of_container

# In bytes: commits made meanwhile stay in the write-ahead log, and for a new key are recorded in memory.
_MOST_IN_WAL = 256 * 1024 * 1024
_MOST_RECORDED = 24 * 1024 * 1024

# The UID that writes most waits from this share of either on: at first, and when the copy is complete. Those
# that have written less may have as much again.
_SHARE_AT_FIRST = 0.125
_SHARE_IN_THE_END = 0.5

# When the file may be written to again: so many bytes more than then in the write-ahead log, or recorded.
_PRESSED_AFTER = 4 * 1024 * 1024

# Of SQLite, between two looks at whether it is to end.
_STEPS = 100

_MIB = 1024 * 1024
_NOTHING = 1e-9

_PAGES_AT_A_TIME = 2048
_PAGE = 4096


class CopiedStore(Protocol):
    """The store that a copy is made of, as far as a copy needs it."""

    path: Path
    key: Key
    wal: WriteAheadLog

    async def attach(self, observer: "HeldCheckpoint") -> None:
        """Leave the database file as it is, until the write-ahead log is released, and pass on commits.

        Raises StoreError, and StoreBusyError where another copy is made.
        """

    async def detach(self) -> None:
        """The copy has ended, and has released the write-ahead log."""

    def descriptor(self) -> int:
        """Of the database file, to read from; raises OSError."""


class HeldCheckpoint:
    """Within `async with`, the database file is as it was at the beginning, with all that was committed then.

    Commits go on, in the write-ahead log. With `records` they are recorded, and can be taken. Those who write
    most wait for the copy, as far as its progress requires. Raises StoreError, and StoreBusyError where there
    is one already.
    """

    def __init__(self, store: CopiedStore, *, records: bool = False) -> None:
        # A byte that is recorded takes up more of what may be than one in the write-ahead log.
        self._cost = max(1, _MOST_IN_WAL // _MOST_RECORDED) if records else 1
        self.pacer = WritePacer(store.path, self._room, self._cost)
        self._store = store
        self._wal = store.wal
        self._wal_size = 0
        self._wal_was = 0  # when the file was released
        self._records = records
        self._recorded: deque[SecretChange] = deque()
        self._weight = 0
        self._progress = 0.0
        self._is_held = False
        # Why it was given up.
        self._broken = ""

    async def __aenter__(self) -> Self:
        await self._store.attach(self)
        self._is_held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._recorded.clear()
        self._weight = 0
        self.release()
        await self._store.detach()

    def release(self) -> None:
        """Let the file be written to again; what is committed is recorded until the end."""
        if self._is_held:
            self._is_held = False
            self._wal_was = self._wal.size
            self._wal.release()

    def check(self) -> None:
        """Raises StoreError where it was given up."""
        if self._broken:
            raise StoreError(f"{self._store.path}: {self._broken}")

    def advance(self, progress: float) -> None:
        """Take note of the share of the copy that is made, from 0 to 1."""
        self._progress = progress
        self.pacer.look()

    def take(self) -> SecretChange | None:
        """The first change that is recorded, which then is not any more."""
        if not self._recorded:
            return None
        change = self._recorded.popleft()
        self._weight -= weight_of(change)
        return change

    # Implements CommitObserver

    def committed(self, changes: Sequence[SecretChange]) -> None:
        if self._broken:
            return
        self._charge(changes)
        if self._records:
            self._recorded += changes
            self._weight += sum(map(weight_of, changes))
        if self._fullness() > 1:
            most = self.pacer.most()
            whose = "" if most is None else f", most of it by UID {most[0]} ({most[1] // _MIB} MiB)"
            self._give_up(
                f"given up: too much was written meanwhile{whose}; try again when there is less to do"
            )
        self.pacer.look()

    def fail(self) -> None:
        self._give_up("given up because of an error in pykcm; its log says more")

    def _give_up(self, why: str) -> None:
        self._broken = why
        self._recorded.clear()
        self._weight = 0
        self.release()

    def _charge(self, changes: Sequence[SecretChange]) -> None:
        """Charge each UID its share of the write-ahead log's growth: a small change writes whole pages."""
        before, self._wal_size = self._wal_size, self._wal.size
        weights: Counter[int | None] = Counter()
        for container, same in groupby(changes, lambda change: change.container):
            weights[uid_of_container(container)] += sum(map(weight_of, same))
        for uid in weights:
            if uid is not None:
                weights[uid] = max(weights[uid], self.pacer.announced(uid))
        total = weights.total()
        grown = max(total * self._cost, self._wal_size - before)
        for uid, weight in weights.items():
            if uid is not None:
                self.pacer.charge(uid, grown * weight // total)

    def _fullness(self, more: int = 0) -> float:
        """The share of what may be written meanwhile that there is, with so many bytes more."""
        recorded = (self._weight + more) / _MOST_RECORDED if self._records else 0.0
        in_wal = (self._wal.size + more) / _MOST_IN_WAL if self._is_held else 0.0
        return max(recorded, in_wal)

    def _room(self, more: int) -> float:
        """As WritePacer has it."""
        more //= self._cost
        if self._is_held:
            share = _SHARE_AT_FIRST + (_SHARE_IN_THE_END - _SHARE_AT_FIRST) * self._progress
            return share / max(self._fullness(more), _NOTHING)
        behind = self._weight + more if self._records else 0
        if self._wal.is_copying:
            behind = max(behind, self._wal.size - self._wal_was + more)
        return _PRESSED_AFTER / max(behind, 1)


class Progress:
    """Of what is done beside the loop: `done` bytes; `stop` ends it."""

    def __init__(self) -> None:
        self.done = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def check(self) -> None:
        """Raises StoreError where it is to end."""
        if self.is_stopped():
            raise StoreError("the copy was stopped before its end")


class Worker:
    """Within `async with`, work is done in a thread of its own; when that is left early, it is stopped.

    Leaving takes at most as long as SQLCipher looks at each page's HMAC, which cannot be stopped.
    """

    def __init__(self, work: Callable[[Progress], None]) -> None:
        self.progress = Progress()
        self._work = work
        self._task: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(asyncio.to_thread(self._work, self.progress))
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._task.done():
            self.progress.stop()
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()

    async def is_done(self, within: float) -> bool:
        """Wait for so many seconds at most; raises what the work has raised."""
        await asyncio.wait([self._task], timeout=within)
        if not self._task.done():
            return False
        self._task.result()
        return True


def check_file(path: Path, key: Key, progress: Progress) -> None:
    """Look at every page of a database that stands still; raises StoreError."""
    try:
        with closing(_beside_its_owner(path, key)) as db:
            _check(db, path, progress)
    except sqlcipher.Error as error:
        raise store_error(error, path) from error


def copy_file(path: Path, key: Key, to: Path, new_key: Key, progress: Progress) -> None:
    """Copy a database that stands still, page by page, to one with another key; raises StoreError.

    The copy is looked at whole; its end is not synced.
    """

    def tell(_: int, remaining: int, total: int) -> None:
        progress.check()
        progress.done = (total - remaining) * _PAGE
        # All at once in the end, it would be in the way of what is committed then.
        sync_file(to)

    try:
        with closing(_beside_its_owner(path, key)) as db, closing(connect(to, new_key, "rwc")) as copy:
            # The next start or the next copy removes an incomplete one.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            db.backup(copy, pages=_PAGES_AT_A_TIME, progress=tell)
            progress.check()
            _check(copy, to, progress)
    except sqlcipher.Error as error:
        raise write_error(error, to) from error
    except OSError as error:
        raise file_error(error, to) from error


def _beside_its_owner(path: Path, key: Key) -> Any:
    # SQLite knows of the owner's connection, and lets its locks be.
    return connect(path, key, "ro&immutable=1")


def _check(db: Any, path: Path, progress: Progress) -> None:
    db.set_progress_handler(progress.is_stopped, _STEPS)
    try:
        check_version(db)
        check_pages(db, closed_in_order=True)
    except UnfitError as unfit:
        raise StoreError(f"{path}: {unfit}") from None
