"""Group commit: what one turn of the event loop brings is one transaction and shares one sync.

Large changes are committed apart, so that the small ones of others wait for one of them and never for all.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from time import perf_counter_ns
from typing import NamedTuple

from pykcm.engine.stepping import step
from pykcm.server.statistics import Durations
from pykcm.store.interface import Store, StoreError
from pykcm.store.tree import SecretChange


class _Entry(NamedTuple):
    changes: Sequence[SecretChange]
    durable: asyncio.Future[None]
    size: int


# In bytes: changes up to the first size, nearly all, are committed together; those up to each of the others
# have a queue of their own, so that one of 100 KiB does not wait for all that have 4 MiB.
_SIZES = (16 * 1024, 128 * 1024, 1024 * 1024)

# In bytes: so much of one queue is committed together, or a single larger one.
_TOGETHER = 1024 * 1024


class Committer:
    """Collects the changes of operations and commits them together.

    `commits` are those that were made; `operations` is how many operations they made durable, and
    `batches[n]` how many commits were for less than 2**n of them, and not for less than half of that.
    `failures` were not made; `is_failing`: the last one was not.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commits = Durations()
        self.batches = [0] * 64
        self.operations = 0
        self.failures = 0
        self.is_failing = False
        self._small: list[_Entry] = []
        self._large: list[deque[_Entry]] = [deque() for _ in _SIZES]
        self._is_due = False

    async def commit(self, changes: Sequence[SecretChange], size: int = 0) -> None:
        """Return when the changes are durable; raises StoreError when they are not made at all.

        `size`: bytes that they write and delete, about.
        """
        delay = self._store.delay(changes, size)
        if delay is not None:
            await delay
        loop = asyncio.get_running_loop()
        durable = loop.create_future()
        entry = _Entry(changes, durable, size)
        if size <= _SIZES[0]:
            self._small.append(entry)
        else:
            self._large[sum(size > limit for limit in _SIZES[1:])].append(entry)
        if not self._is_due:
            self._is_due = True
            # Behind everything that this turn of the loop still brings.
            loop.call_soon(self._start)
        await durable

    def _start(self) -> None:
        # If it fails, _commit_waiting has told all who wait.
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
                        # The requests that others have sent meanwhile are next.
                        await asyncio.sleep(0)
        except BaseException:
            _refuse(chain(self._small, *self._large))
            self._small.clear()
            for queue in self._large:
                queue.clear()
            raise
        finally:
            self._is_due = False

    async def _commit(self, batch: list[_Entry]) -> None:
        try:
            if len(batch) == 1 or not await self._commit_together(batch):
                # One whose changes cannot be made must not take the others with it.
                for entry in batch:
                    await self._commit_alone(entry)
        except BaseException:
            _refuse(batch)
            raise

    async def _commit_together(self, batch: list[_Entry]) -> bool:
        begun = perf_counter_ns()
        try:
            await self._store.commit(chain.from_iterable(entry.changes for entry in batch))
        except Exception:  # noqa: BLE001 - each is told by its own attempt
            self._count_failure()
            return False
        # Those who wait are told first: whatever else is done with a commit must not concern them.
        for entry in batch:
            _settle(entry.durable, None)
        self._count(begun, len(batch))
        return True

    async def _commit_alone(self, entry: _Entry) -> None:
        begun = perf_counter_ns()
        try:
            await self._store.commit(entry.changes)
        except Exception as error:  # noqa: BLE001 - it is the operation's to answer
            self._count_failure()
            _settle(entry.durable, error)
        else:
            _settle(entry.durable, None)
            self._count(begun, 1)

    def _count(self, begun: int, operations: int) -> None:
        self.is_failing = False
        self.commits.add(perf_counter_ns() - begun)
        self.batches[operations.bit_length()] += 1
        self.operations += operations

    def _count_failure(self) -> None:
        self.failures += 1
        self.is_failing = True


def _some_of(queue: deque[_Entry]) -> list[_Entry]:
    """Take the first entries, so many as are committed together."""
    batch = [queue.popleft()]
    size = batch[0].size
    while queue and (size := size + queue[0].size) <= _TOGETHER:
        batch.append(queue.popleft())
    return batch


def _refuse(entries: Iterable[_Entry]) -> None:
    for entry in entries:
        _settle(entry.durable, StoreError("the commit was interrupted"))


def _settle(durable: asyncio.Future[None], error: Exception | None) -> None:
    if durable.done():
        return
    if error is None:
        durable.set_result(None)
    else:
        durable.set_exception(error)
