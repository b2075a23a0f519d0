"""Copying the database while it is in use: no checkpoint changes its file, and a thread reads it."""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, Self

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.logs import User
from pykcm.store.disk import sync_file
from pykcm.store.interface import StoreError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import (
    PAGE_SIZE,
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

# In bytes: the most that may be committed meanwhile, in the write-ahead log and, for a new key, in memory.
_MOST_IN_WAL = 256 * 1024 * 1024
_MOST_RECORDED = 24 * 1024 * 1024

# The share of both limits from which the UID that writes most waits: at first, and when the copy is complete.
# UIDs that have written less share the rest.
_SHARE_AT_FIRST = 0.125
_SHARE_IN_THE_END = 0.5

# In bytes: after the release, the growth of the write-ahead log, or the recorded changes, from which the UID
# that writes most waits.
_PRESSED_AFTER = 4 * 1024 * 1024

# Instructions of SQLite between two looks at whether to stop.
_STEPS = 100

_MIB = 1024 * 1024
_NOTHING = 1e-9

_PAGES_AT_A_TIME = 2048


class CopiedStore(Protocol):
    """The part of a store that copying it needs."""

    path: Path
    key: Key
    wal: WriteAheadLog

    async def attach(self, observer: "HeldCheckpoint") -> None:
        """Hold the database file until the write-ahead log is released, and pass on commits.

        Raises StoreError, and StoreBusyError if another copy is being made.
        """

    async def detach(self) -> None:
        """Forget the observer: the copy has ended and released the write-ahead log."""

    def descriptor(self) -> int:
        """Return a descriptor for reading the database file; raises OSError."""


class HeldCheckpoint:
    """Within `async with`, the database file has all earlier commits and does not change.

    Later commits stay in the write-ahead log. With `records` their changes are also recorded, to be taken.
    The UIDs that write most wait, as the copy's progress requires. Raises StoreError, and StoreBusyError if
    there is another one.
    """

    def __init__(self, store: CopiedStore, *, records: bool = False) -> None:
        # A recorded byte takes up more of its limit than a byte in the write-ahead log.
        self._cost = max(1, _MOST_IN_WAL // _MOST_RECORDED) if records else 1
        self.pacer = WritePacer(store.path, self._room, self._cost)
        self._store = store
        self._wal = store.wal
        self._wal_size = 0
        self._wal_at_release = 0
        self._records = records
        self._recorded: deque[SecretChange] = deque()
        self._weight = 0
        self._progress = 0.0
        self._is_held = False
        # Why the copy was given up; "": it was not.
        self._failure = ""

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
        """Allow checkpoints again; commits are recorded until the end."""
        if self._is_held:
            self._is_held = False
            self._wal_at_release = self._wal.size
            self._wal.release()

    def check(self) -> None:
        """Raise StoreError if the copy was given up."""
        if self._failure:
            raise StoreError(f"{self._store.path}: {self._failure}")

    def advance(self, progress: float) -> None:
        """Set the share of the copy that is complete, from 0 to 1."""
        self._progress = progress
        self.pacer.look()

    def take(self) -> SecretChange | None:
        """Remove and return the first recorded change; None: there is none."""
        if not self._recorded:
            return None
        change = self._recorded.popleft()
        self._weight -= weight_of(change)
        return change

    # Implements CommitObserver

    def committed(self, changes: Sequence[SecretChange]) -> None:
        if self._failure:
            return
        self._charge(changes)
        if self._records:
            self._recorded += changes
            self._weight += sum(map(weight_of, changes))
        if self._fullness() > 1:
            most = self.pacer.most()
            writer = "" if most is None else f", most of it by {User(most[0])} ({most[1] // _MIB} MiB)"
            self._give_up(
                f"given up: too much was written meanwhile{writer}; try again when there is less to do"
            )
        self.pacer.look()

    def fail(self) -> None:
        self._give_up("given up because of an error in pykcm; its log says more")

    def _give_up(self, reason: str) -> None:
        self._failure = reason
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
        """Return the used share of the limits, after `more` bytes."""
        recorded = (self._weight + more) / _MOST_RECORDED if self._records else 0.0
        in_wal = (self._wal.size + more) / _MOST_IN_WAL if self._is_held else 0.0
        return max(recorded, in_wal)

    def _room(self, more: int) -> float:
        """Return `room` of WritePacer."""
        more //= self._cost
        if self._is_held:
            share = _SHARE_AT_FIRST + (_SHARE_IN_THE_END - _SHARE_AT_FIRST) * self._progress
            return share / max(self._fullness(more), _NOTHING)
        pending = self._weight + more if self._records else 0
        if self._wal.is_copying:
            pending = max(pending, self._wal.size - self._wal_at_release + more)
        return _PRESSED_AFTER / max(pending, 1)


class Progress:
    """The progress of a Worker: `done` bytes; `stop` ends it."""

    def __init__(self) -> None:
        self.done = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def check(self) -> None:
        """Raise StoreError if the work was stopped."""
        if self.is_stopped():
            raise StoreError("the copy was stopped before its end")


class Worker:
    """Within `async with`, does work in a thread; the end of the block stops unfinished work.

    Stopping may have to wait until SQLCipher has checked each page's HMAC, which cannot be stopped.
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
    """Check every page of a database whose file does not change; raises StoreError."""
    try:
        with closing(_beside_its_owner(path, key)) as db:
            _check(db, path, progress)
    except sqlcipher.Error as error:
        raise store_error(error, path) from error


def copy_file(path: Path, key: Key, to: Path, new_key: Key, progress: Progress) -> None:
    """Copy a database whose file does not change to one with another key, page by page; raises StoreError.

    All pages of the copy are checked. Its last pages are not synced.
    """

    def report(_: int, remaining: int, total: int) -> None:
        progress.check()
        progress.done = (total - remaining) * PAGE_SIZE
        # One sync of the whole file at the end would delay the commits at that time.
        sync_file(to)

    try:
        with closing(_beside_its_owner(path, key)) as db, closing(connect(to, new_key, "rwc")) as copy:
            # No journal is needed: the next start or the next copy removes an incomplete copy.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            db.backup(copy, pages=_PAGES_AT_A_TIME, progress=report)
            progress.check()
            _check(copy, to, progress)
    except sqlcipher.Error as error:
        raise write_error(error, to) from error
    except OSError as error:
        raise file_error(error, to) from error


def _beside_its_owner(path: Path, key: Key) -> Any:
    # SQLite knows the owner's connection and keeps its locks.
    return connect(path, key, "ro&immutable=1")


def _check(db: Any, path: Path, progress: Progress) -> None:
    db.set_progress_handler(progress.is_stopped, _STEPS)
    try:
        check_version(db)
        check_pages(db, closed_in_order=True)
    except UnfitError as unfit:
        raise StoreError(f"{path}: {unfit}") from None
