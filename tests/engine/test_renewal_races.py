"""Hand-backs race with what users do: the user always wins, and nothing else of a ccache changes."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.engine.renewal_attempts import Failure
from pykcm.protocol.credential import Credential
from pykcm.store.interface import Committed, Entry, Outcome
from pykcm.store.memory import MemoryStore
from tests.builders import configuration, service, tag_for, ticket
from tests.engine.renewing import NOW, Client, Host, tgt

NAMES = [b"1000", b"1000:a", b"1000:b"]
OFF = configuration(b"pykcm_renewal", b"no")


class SlowStore(MemoryStore):
    """A store whose commits take a random number of iterations of the event loop."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
        await super().commit(entries)
        return [Committed(dict.fromkeys(entry.bases, 1)) for entry in entries]


@dataclass
class Expected:
    """A ccache as its user has left it: the number of its kinit (None: no TGT), and its other entries."""

    kinit: int | None
    others: list[Credential] = field(default_factory=list)
    is_off: bool = False


class User:
    """Does random things with ccaches, one after the other, and knows what they have to contain."""

    def __init__(self, host: Host, chance: random.Random) -> None:
        self._host = host
        self._chance = chance
        self._number = 0
        self.expected: dict[bytes, Expected] = {}

    async def act(self) -> None:
        name = self._chance.choice(NAMES)
        existing = self.expected.get(name)
        action = self._chance.choice(["kinit", "kvno", "remove", "destroy", "off", "move", "kinit"])
        if action == "kinit":
            self._number += 1
            self.expected[name] = Expected(self._number)
            await self._host.fill(name, new_tgt(self._number))
        elif existing is None:
            return
        elif action == "kvno":
            stored = ticket(service(len(existing.others)), ends=NOW + 5000)
            existing.others.append(stored)
            await self._change(name, lambda each, ccache: each.store(ccache, stored))
        elif action == "off" and not existing.is_off:
            existing.is_off = True
            existing.others.append(OFF)
            await self._change(name, lambda each, ccache: each.store(ccache, OFF))
        elif action == "remove" and existing.kinit is not None:
            existing.kinit = None
            await self._change(
                name, lambda each, ccache: each.remove_credentials(ccache, tag_for(tgt().server), 0)
            )
        elif action == "destroy":
            del self.expected[name]
            await self._host.change(lambda each: each.destroy(name))
        elif action == "move":
            target = self._chance.choice([each for each in NAMES if each != name])
            self.expected[target] = self.expected.pop(name)
            await self._host.change(lambda each: each.rename(name, target, lambda _: True))

    async def _change(self, name: bytes, function: Callable[[Collection, CCache], object]) -> None:
        def change(collection: Collection) -> None:
            ccache = collection.get(name)
            assert ccache is not None
            function(collection, ccache)

        await self._host.change(change)

    async def check(self) -> None:
        for name in NAMES:
            found = await self._host.credentials(name)
            expected = self.expected.get(name)
            if expected is None:
                assert found == []
                continue
            tgts = [each for each in found if each.server == tgt().server]
            assert [each for each in found if each not in tgts] == expected.others
            numbers = [int(each.ticket.split(b" ")[0]) for each in tgts]
            assert numbers == ([] if expected.kinit is None else [expected.kinit])
            if tgts:
                assert found[0] is tgts[0]


def new_tgt(number: int) -> Credential:
    return tgt(NOW - 50, NOW + 50, NOW + 10_000, ticket=b"%d" % number)


def renewed(old: Credential) -> bytes:
    return tgt(NOW - 50, old.endtime + 1, NOW + 10_000, ticket=old.ticket + b" renewed").blob


@pytest.mark.parametrize("seed", range(40))
async def test_user_wins_each_race(seed: int) -> None:
    """A kinit, kdestroy or other change during a renewal stays, whatever the order of commits is."""
    chance = random.Random(seed)
    host = Host(store=SlowStore(chance))
    user = User(host, chance)
    tasks: set[asyncio.Task[object]] = set()
    async with Client(host.renewals) as client:
        for _ in range(150):
            acting = asyncio.ensure_future(user.act())
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            for offer in client.offers:
                failure = Failure("kdc") if chance.random() < 0.1 else None
                result = failure or renewed(offer.credential)
                tasks.add(asyncio.ensure_future(host.renewals.hand_back(offer.id, result)))
            client.offers.clear()
            await acting
            if chance.random() < 0.2:
                host.clock.now += 0.5
        await asyncio.gather(*tasks)
        await client.settled()
        await user.check()
    results = {task.result().result for task in tasks}  # type: ignore[attr-defined]
    assert {"renewed", "changed"} <= results
