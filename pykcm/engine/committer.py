"""Group commit: entries of one iteration of the event loop are one transaction and share one sync.

Large entries are committed separately: a small one waits for one of them, and never for all.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from itertools import chain
from time import perf_counter_ns
from typing import NamedTuple

from pykcm.engine.stepping import step
from pykcm.logs import LimitedLog
from pykcm.store.interface import Committed, Conflict, Entry, Outcome, Refused, Store, StoreError, Unknown

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "commits that ended without an outcome", 10)


# No duration reaches 2**63 ns.
_BUCKETS = 64


class _Waiting(NamedTuple):
    entry: Entry
    outcome: asyncio.Future[Outcome]


# In bytes. Entries up to the first size (nearly all) are committed together. There is a queue of larger
# entries for each further size, so that an entry of 100 KiB does not wait for all entries of 4 MiB.
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
    """Collects entries and commits them together.

    `commits`: durations of successful commits. `operations`: entries that are durable. `batches[n]`: commits
    of at least 2**(n-1) and less than 2**n entries. `failures`: failed commits and refused entries.
    `is_failing`: whether the last commit failed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commits = Durations()
        self.batches = [0] * _BUCKETS
        self.operations = 0
        self.failures = 0
        self.is_failing = False
        self._small: list[_Waiting] = []
        self._large: list[deque[_Waiting]] = [deque() for _ in _SIZES]
        self._task: asyncio.Task[None] | None = None  # kept, because an event loop holds tasks weakly
        self._is_running = False

    def commit(self, entry: Entry) -> Awaitable[Outcome]:
        """Commit the entry together with others; the result is its outcome."""
        delay = self._store.delay(entry.changes, entry.size)
        return self._enqueue(entry) if delay is None else self._enqueue_after(delay, entry)

    async def _enqueue_after(self, delay: Awaitable[None], entry: Entry) -> Outcome:
        await delay
        return await self._enqueue(entry)

    def _enqueue(self, entry: Entry) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(entry, loop.create_future())
        if entry.size <= _SIZES[0]:
            self._small.append(waiting)
        else:
            self._large[sum(entry.size > limit for limit in _SIZES[1:])].append(waiting)
        if not self._is_running:
            self._is_running = True
            # The commit begins when this iteration of the event loop has brought all its entries.
            if self._store.needs_task:
                self._task = loop.create_task(self._commit_waiting())
            else:
                loop.call_soon(self._start)
        return waiting.outcome

    def _start(self) -> None:
        # If it fails, it has answered all waiting entries.
        step(self._commit_waiting(), lambda _: None, lambda: None)

    async def _commit_waiting(self) -> None:
        try:
            while self._small or any(self._large):
                for queue in self._large:
                    if self._small:
                        batch, self._small = self._small, []
                        await self._commit(batch)
                    if queue:
                        await self._commit(_some_of(queue))
                        # Requests that have come meanwhile are next.
                        await asyncio.sleep(0)
        except BaseException:
            _give_up(list(chain(self._small, *self._large)), Refused)
            self._small.clear()
            for queue in self._large:
                queue.clear()
            raise
        finally:
            self._is_running = False

    async def _commit(self, batch: list[_Waiting]) -> None:
        begun = perf_counter_ns()
        try:
            outcomes = await self._store.commit([waiting.entry for waiting in batch])
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
        # Waiting entries are answered first: an error in counting must not affect them.
        for waiting, outcome in zip(batch, outcomes, strict=True):
            _answer(waiting, outcome)
        self._count(begun, outcomes)

    def _count(self, begun: int, outcomes: list[Outcome]) -> None:
        committed = refused = 0
        for outcome in outcomes:
            if type(outcome) is Committed:
                committed += 1
            elif type(outcome) is not Conflict:
                refused += 1
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


def _some_of(queue: deque[_Waiting]) -> list[_Waiting]:
    """Remove the first entries from the queue, as many as are committed together."""
    batch = [queue.popleft()]
    size = batch[0].entry.size
    while queue and (size := size + queue[0].entry.size) <= _TOGETHER:
        batch.append(queue.popleft())
    return batch


def _give_up(batch: list[_Waiting], outcome: type[Refused | Unknown]) -> None:
    for waiting in batch:
        _answer(waiting, outcome(StoreError("the commit was interrupted")))


def _answer(waiting: _Waiting, outcome: Outcome) -> None:
    if not waiting.outcome.done():
        waiting.outcome.set_result(outcome)
