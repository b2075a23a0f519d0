"""Many requests of each UID in flight, with refusals at random: linearizable, and whole after any crash."""

import asyncio
import errno
import random
from collections.abc import Sequence

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Collections, Engine
from pykcm.protocol.codes import Code, KcmError
from pykcm.store.interface import Entry, Outcome, Refused, StoreError
from pykcm.store.memory import MemoryStore
from pykcm.store.tree import ccaches_container, split_ccache_name
from tests.builders import ALICE, service, ticket

UIDS = (1000, 2000, 3000)
QUOTAS = Quotas(10_000, 10_000, 1 << 30, 1 << 30, 10_000, 10_000)
CLIENTS = 8
REQUESTS = 15

Names = tuple[bytes, ...]


class CrashingStore(MemoryStore):
    """Refuses some entries, takes its time, and remembers for each UID what is durable after each commit.

    `after_crash`: for each UID the names of its ccaches after a crash, at any time so far.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.after_crash: dict[int, list[Names]] = {uid: [()] for uid in UIDS}

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        assert len({uid for entry in entries for uid in entry.bases}) == len(
            [uid for entry in entries for uid in entry.bases]
        ), "no two entries are of one UID"
        await self._wait()
        outcomes: list[Outcome] = []
        for entry in entries:
            # A crash is possible between two commits, and then nothing of this one is durable.
            if self._chance.random() < 0.15:
                outcomes.append(Refused(StoreError("no space left", errno.ENOSPC)))
            else:
                outcomes += await super().commit([entry])
        for uid in UIDS:
            names = self.durable(uid)
            if names != self.after_crash[uid][-1]:
                self.after_crash[uid].append(names)
        await self._wait()
        return outcomes

    async def _wait(self) -> None:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)

    def durable(self, uid: int) -> Names:
        secrets = self._trees.get(uid, {}).get(ccaches_container(uid), {})
        return tuple(split_ccache_name(name)[1] for name in secrets)


class Request:
    """A request of one UID at random: what it does, and what came of it.

    `position`: when it ran last, among all of its UID.
    """

    def __init__(self, uid: int, number: int, chance: random.Random) -> None:
        self.uid = uid
        self.name = b"%d" % number
        self.kind = chance.choice(["create", "create", "destroy", "read"])
        self.victim = b"%d" % chance.randrange(CLIENTS * REQUESTS)
        self.size = chance.choice([0, 0, 0, 3_000, 40_000, 1_200_000])
        self.keep = chance.random() < 0.8
        self.position = -1
        self.result: Names | int = -1

    def run(self, names: Names) -> Names | int:
        """The result in the model, where a ccache that has been destroyed leaves a mark."""
        if self.kind == "read":
            return names
        if self.kind == "destroy":
            if self.victim not in names:
                return Code.FCC_NOFILE
            names = tuple(name for name in names if name != self.victim)
        # Each change has a ccache of its own: no two states are the same.
        return (*names, self.name)

    async def perform(self, engine: Engine, clock: list[int]) -> None:
        def function(collections: Collections) -> Names:
            clock[0] += 1
            self.position = clock[0]
            collection = collections[self.uid]
            if self.kind != "read":
                if self.kind == "destroy":
                    collection.destroy(self.victim)
                tickets = [ticket(service(1), size=self.size)] if self.size else []
                collection.replace(self.name, ALICE, 0, tickets, None)
            return tuple(ccache.name for ccache in collection)

        try:
            run = engine.read if self.kind == "read" else engine.change
            self.result = await run((self.uid,), function, keep=self.keep)
        except KcmError as error:
            self.result = error.code


@pytest.mark.parametrize("seed", range(12))
async def test_linearizable_and_durable(seed: int) -> None:
    """All answers are those of one order of each UID's requests, in which a crash leaves a beginning.

    That beginning has, at each time, all that was answered: also what was only read.
    """
    chance = random.Random(seed)
    store = CrashingStore(chance)
    engine = Engine(store, CollectionCache(store, QUOTAS, cache_size=100_000))
    clock = [0]
    # Requests in the order of their answers, with how many states of their UID were durable then.
    answered: list[tuple[Request, int]] = []

    async def client(requests: list[Request]) -> None:
        for request in requests:
            await request.perform(engine, clock)
            answered.append((request, len(store.after_crash[request.uid])))

    await asyncio.gather(
        *[
            client([Request(uid, number * REQUESTS + each, chance) for each in range(REQUESTS)])
            for uid in UIDS
            for number in range(CLIENTS)
        ]
    )
    for uid in UIDS:
        in_order = sorted(
            (each for each in answered if each[0].uid == uid), key=lambda each: each[0].position
        )
        names: Names = ()
        states: list[Names] = [names]
        needed: list[tuple[int, int]] = []
        for request, durable in in_order:
            if request.result == errno.ENOSPC:
                continue
            result = request.run(names)
            assert request.result == result, f"seed {seed}: {request.kind} {request.name!r}"
            if isinstance(result, tuple) and result != names:
                names = result
                states.append(names)
            needed.append((len(states) - 1, durable))
        numbers = [states.index(after_crash) for after_crash in store.after_crash[uid]]
        assert numbers == sorted(numbers), f"seed {seed}: changes are durable in their order"
        assert numbers[-1] == len(states) - 1, f"seed {seed}: nothing else is durable"
        for number, durable in needed:
            assert numbers[durable - 1] >= number, f"seed {seed}: an answer that a crash would take back"
    assert any(request.result == errno.ENOSPC for request, _ in answered)
    assert not engine.uid_queues.occupied
    # Several of one UID were committed together.
    assert engine.committer.operations > sum(engine.committer.commits.buckets) * 1.2
