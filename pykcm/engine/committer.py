"""Group commit: changes of one iteration of the event loop are one transaction and share one sync.

Large ones are committed separately: a small one waits for one of them, and never for all.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Coroutine, Sequence
from itertools import chain
from time import perf_counter_ns
from typing import Any, Protocol, cast

from pykcm.engine.stepping import step
from pykcm.logs import LimitedLog
from pykcm.store.interface import Blocked, Committed, Entry, Outcome, Refused, Store, StoreError, Unknown

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "commits that ended without an outcome", 10)


# Iterations of the event loop that a commit waits for further operations, at most.
_MOST_ITERATIONS = 4

# No duration reaches 2**63 ns.
_BUCKETS = 64


class Changes(Protocol):
    """Changes that wait for their commit. More may be added until they are taken.

    `size`: bytes of the first of them, about, which decide what they are committed with. `operations`: how
    many operations have made those that were taken.
    """

    size: int
    operations: int

    def take(self) -> Entry:
        """The changes to commit now; called once."""

    def end(self, outcome: Outcome) -> None:
        """The outcome of what was taken. It must not raise."""


class _Single:
    """One entry, whose outcome somebody waits for."""

    operations = 1

    def __init__(self, entry: Entry, outcome: asyncio.Future[Outcome]) -> None:
        self.size = entry.size
        self.outcome = outcome
        self._entry = entry

    def take(self) -> Entry:
        return self._entry

    def end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class _Delayed:
    """Changes that were taken and had to wait: for a copy of the store, or for another host's transaction."""

    def __init__(self, changes: Changes, entry: Entry) -> None:
        self.size = entry.size
        self.operations = changes.operations
        self.end = changes.end
        self._entry = entry

    def take(self) -> Entry:
        return self._entry


# In bytes. Changes up to the first size (nearly all) are committed together. There is a queue of larger
# changes for each further size, so that one of 100 KiB does not wait for all of 4 MiB.
_SIZES = (16 * 1024, 128 * 1024, 1024 * 1024)

# In bytes: at most so much of one queue is committed together. A larger entry is committed alone.
_TOGETHER = 1024 * 1024


class Durations:
    """How often something happened and how long it took, in nanoseconds.

    `buckets[n]` counts durations of at least 2**(n-1) and less than 2**n ns: a list of them all would grow.
    """

    __slots__ = ("buckets", "longest", "total")

    def __init__(self) -> None:
        self.buckets = [0] * _BUCKETS
        self.total = 0
        self.longest = 0

    def add(self, duration: int) -> None:
        self.buckets[duration.bit_length()] += 1
        self.total += duration
        if duration > self.longest:  # noqa: PLR1730 - max() costs three times as much
            self.longest = duration


class Committer:
    """Collects changes and commits them together.

    Never two entries of one UID are in the store at a time: the next changes of a UID are submitted when the
    outcome of its last ones is known. No commit thus depends on another one that is not durable.

    `commits`: durations of successful commits. `operations`: those that are durable. `batches[n]`: commits of
    at least 2**(n-1) and less than 2**n operations. `failures`: failed commits and refused entries.
    `is_failing`: whether the last commit failed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commits = Durations()
        self.batches = [0] * _BUCKETS
        self.operations = 0
        self.failures = 0
        self.is_failing = False
        self._small: list[Changes] = []
        self._large: list[deque[Changes]] = [deque() for _ in _SIZES]
        self._tasks: set[asyncio.Task[None]] = set()  # kept, because an event loop holds tasks weakly
        self._is_running = False
        # For a store that takes several commits at a time: the others do not wait for one that takes long.
        at_once = store.commits_at_once
        self._free = asyncio.Semaphore(at_once) if at_once > 1 else None
        # Operations submitted since the last commit, and whether that was of several.
        self.submitted = 0
        self._is_shared = False

    def commit(self, entry: Entry) -> asyncio.Future[Outcome]:
        """Commit the entry together with others; the result is its outcome."""
        single = _Single(entry, asyncio.get_running_loop().create_future())
        self.submit(single)
        return single.outcome

    def submit(self, changes: Changes) -> None:
        """Commit the changes with others, as soon as this iteration of the event loop is over."""
        self.submitted += 1
        if changes.size <= _SIZES[0]:
            self._small.append(changes)
        else:
            self._large[sum(changes.size > limit for limit in _SIZES[1:])].append(changes)
        if not self._is_running:
            self._is_running = True
            loop = asyncio.get_running_loop()
            # The commit begins when this iteration of the event loop has brought all its changes.
            # Where the loop has it (see sockets.event_loop): 15 µs of a STORE.
            getattr(loop, "call_after_readers", loop.call_soon)(self._start)

    async def _gather(self) -> None:
        """Wait for further operations, as long as each iteration of the event loop brings some.

        After a shared commit its clients send the next requests now. Without the wait the first of them would
        have a sync of its own, or one half of them, and the others the next one.
        """
        for _ in range(_MOST_ITERATIONS):
            before = self.submitted
            await asyncio.sleep(0)
            if self.submitted == before:
                break

    def _start(self) -> None:
        # If it fails, it has answered all waiting changes.
        step(self._commit_waiting(), lambda _: None, lambda: None)

    async def _commit_waiting(self) -> None:
        commit = self._commit if self._free is None else self._begin_commit
        try:
            while self._small or any(self._large):
                if self._is_shared:
                    await self._gather()
                for queue in self._large:
                    if self._small:
                        batch, self._small = self._small, []
                        await commit(batch)
                        if self._small:
                            # UIDs with more than is committed at a time. Others send requests meanwhile.
                            await asyncio.sleep(0)
                    if queue:
                        await commit(_some_of(queue))
                        # Requests that have come meanwhile are next.
                        await asyncio.sleep(0)
        except BaseException:
            waiting = list(chain(self._small, *self._large))
            self._small.clear()
            for queue in self._large:
                queue.clear()
            _give_up(waiting, Refused)
            raise
        finally:
            self._is_running = False

    def _take(self, waiting: list[Changes]) -> tuple[list[Changes], list[Entry]]:
        """Take the changes that are committed now, with their entries."""
        batch: list[Changes] = []
        entries: list[Entry] = []
        for changes in waiting:
            try:
                entry = changes.take()
            except Exception:  # noqa: BLE001 - logged with its traceback
                _FAULTS.write(
                    logging.ERROR, None, "changes not committed, by an error in pykcm", with_traceback=True
                )
                changes.end(Refused(StoreError("an error in pykcm")))
                continue
            # Those that have waited do not wait again.
            delay = None if type(changes) is _Delayed else self._store.delay(entry.changes, entry.size)
            if delay is None:
                batch.append(changes)
                entries.append(entry)
            else:
                self._keep(self._submit_after(delay, _Delayed(changes, entry)))
        return batch, entries

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _submit_after(self, delay: Awaitable[None], changes: Changes) -> None:
        try:
            await delay
        except BaseException:
            _give_up([changes], Refused)
            raise
        self.submit(changes)

    async def _begin_commit(self, waiting: list[Changes]) -> None:
        """Begin a commit, as soon as not too many others are in progress, and do not wait for its end."""
        assert self._free is not None
        try:
            await self._free.acquire()
        except BaseException:
            _give_up(waiting, Refused)
            raise
        # If it fails, it has answered its changes.
        step(self._commit_and_free(self._free, waiting), lambda _: None, lambda: None)

    async def _commit_and_free(self, free: asyncio.Semaphore, waiting: list[Changes]) -> None:
        try:
            await self._commit(waiting)
        finally:
            free.release()

    async def _commit(self, waiting: list[Changes]) -> None:
        begun = perf_counter_ns()
        self.submitted = 0
        batch, entries = self._take(waiting)
        if not entries:
            return
        try:
            outcomes = await self._store.commit(entries)
        except BaseException as error:
            self._count_failures(1)
            _give_up(batch, Unknown)
            if isinstance(error, Exception):
                _FAULTS.write(
                    logging.ERROR,
                    None,
                    "a commit ended without an outcome, by an error in pykcm",
                    with_traceback=True,
                )
                return
            raise
        # Waiting callers are answered first: an error in counting must not affect them.
        for changes, entry, outcome in zip(batch, entries, outcomes, strict=True):
            if type(outcome) is Blocked:
                self._keep(self._submit_after(asyncio.sleep(outcome.pause), _Delayed(changes, entry)))
            else:
                changes.end(cast("Outcome", outcome))
        self._count(begun, batch, outcomes)

    def _count(self, begun: int, batch: list[Changes], outcomes: Sequence[Outcome | Blocked]) -> None:
        committed = refused = 0
        for changes, outcome in zip(batch, outcomes, strict=True):
            if type(outcome) is Committed:
                committed += changes.operations
            elif type(outcome) is Refused or type(outcome) is Unknown:
                refused += 1
        self._is_shared = committed > 1
        if committed:
            self.is_failing = False
            self.commits.add(perf_counter_ns() - begun)
            self.batches[committed.bit_length()] += 1
            self.operations += committed
        if refused:
            self._count_failures(refused)

    def _count_failures(self, number: int) -> None:
        self.failures += number
        self.is_failing = True


def _some_of(queue: deque[Changes]) -> list[Changes]:
    """Remove the first changes from the queue, as many as are committed together."""
    some = [queue.popleft()]
    size = some[0].size
    while queue and (size := size + queue[0].size) <= _TOGETHER:
        some.append(queue.popleft())
    return some


def _give_up(batch: list[Changes], outcome: type[Refused | Unknown]) -> None:
    for changes in batch:
        changes.end(outcome(StoreError("the commit was interrupted")))
