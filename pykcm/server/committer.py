"""Group commit: what one turn of the event loop brings is one transaction and shares one sync."""

import asyncio
from collections.abc import Sequence
from itertools import chain
from time import perf_counter_ns

from pykcm.server.statistics import Durations
from pykcm.server.stepping import step
from pykcm.store.interface import Store
from pykcm.store.tree import SecretChange

_Entry = tuple[Sequence[SecretChange], asyncio.Future[None]]


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
        self._waiting: list[_Entry] = []
        self._is_due = False

    async def commit(self, changes: Sequence[SecretChange]) -> None:
        """Return when the changes are durable; raises StoreError when they are not made at all."""
        delay = self._store.delay(changes)
        if delay is not None:
            await delay
        loop = asyncio.get_running_loop()
        durable = loop.create_future()
        self._waiting.append((changes, durable))
        if not self._is_due:
            self._is_due = True
            # Behind everything that this turn of the loop still brings.
            loop.call_soon(self._start)
        await durable

    def _start(self) -> None:
        step(self._commit_waiting(), lambda _: None)

    async def _commit_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                if len(batch) == 1 or not await self._commit_together(batch):
                    # One whose changes cannot be made must not take the others with it.
                    for changes, durable in batch:
                        await self._commit_alone(changes, durable)
        finally:
            self._is_due = False

    async def _commit_together(self, batch: list[_Entry]) -> bool:
        begun = perf_counter_ns()
        try:
            await self._store.commit(chain.from_iterable(changes for changes, _ in batch))
        except Exception:  # noqa: BLE001 - each is told by its own attempt
            self._count_failure()
            return False
        # Those who wait are told first: whatever else is done with a commit must not concern them.
        for _, durable in batch:
            _settle(durable, None)
        self._count(begun, len(batch))
        return True

    async def _commit_alone(self, changes: Sequence[SecretChange], durable: asyncio.Future[None]) -> None:
        begun = perf_counter_ns()
        try:
            await self._store.commit(changes)
        except Exception as error:  # noqa: BLE001 - it is the operation's to answer
            self._count_failure()
            _settle(durable, error)
        else:
            _settle(durable, None)
            self._count(begun, 1)

    def _count(self, begun: int, operations: int) -> None:
        self.is_failing = False
        self.commits.add(perf_counter_ns() - begun)
        self.batches[operations.bit_length()] += 1
        self.operations += operations

    def _count_failure(self) -> None:
        self.failures += 1
        self.is_failing = True


def _settle(durable: asyncio.Future[None], error: Exception | None) -> None:
    if durable.done():
        return
    if error is None:
        durable.set_result(None)
    else:
        durable.set_exception(error)
