"""An engine in memory, TGTs that can be renewed, and a client that renews them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Self

from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import NO_LIMITS
from pykcm.ccaches.renewal import Schedule
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.engine.renewal_attempts import Offer, Settings
from pykcm.engine.renewals import Renewals
from pykcm.protocol.credential import Credential, parse_credential
from pykcm.protocol.principal import Principal
from pykcm.store.interface import Store
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE, TGS, Clock, credential_bytes
from tests.server.waiting import settle

RENEWABLE = 0x40E10000
NOW = 1000
UID = 1000


def tgt(
    begin: int = NOW,
    end: int = NOW + 100,
    renew_until: int = NOW + 1000,
    *,
    server: Principal = TGS,
    client: Principal = ALICE,
    flags: int = RENEWABLE,
    enctype: int = 18,
    ticket: bytes = b"ticket",
    is_skey: bool = False,
) -> Credential:
    """A TGT, which can be renewed."""
    times = (NOW, begin, end, renew_until)
    return parse_credential(
        credential_bytes(
            *(server, client),
            times=times,
            flags=flags,
            enctype=enctype,
            ticket=ticket,
            is_skey=is_skey,
        )
    )


class Client:
    """A client within `with`; `offers`: those that it has got, in order."""

    def __init__(self, renewals: Renewals, may_renew: Callable[[str | None], bool] = lambda _: True) -> None:
        self.renewals = renewals
        self.offers: list[Offer] = []
        self._may_renew = may_renew
        self._at_end = ExitStack()

    async def __aenter__(self) -> Self:
        offers = self._at_end.enter_context(self.renewals.connected(self._may_renew))
        self._task = asyncio.create_task(self._take(offers))
        await self.settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._at_end.close()
        await settle()

    async def _take(self, offers: AsyncIterator[Offer]) -> None:
        async for offer in offers:
            self.offers.append(offer)

    async def settled(self) -> None:
        """Run the event loop until nothing happens any more."""
        for _ in range(10):
            await settle()

    def names(self) -> list[bytes]:
        return [offer.ccache for offer in self.offers]


class Host:
    """The engine of one host, and its renewals without jitter. `clock` shows `now` until a test sets it."""

    def __init__(
        self, *, most: int = 32, most_of_realm: int = 16, store: Store | None = None, interval: float = 0.0
    ) -> None:
        self.clock = Clock(NOW)
        self.store = store or MemoryStore()
        self.engine = Engine(self.store, CollectionCache(self.store, NO_LIMITS, clock=self.clock))
        settings = Settings(Schedule(0.5, interval), most, most_of_realm)
        # By how much the clock was set: else it has passed.
        self.set_by = 0.0
        self.renewals = Renewals(self.engine, settings, self.clock, lambda: 0.0, self._steady)

    def _steady(self) -> float:
        return self.clock() - self.set_by

    async def change(self, function: Callable[[Collection], object], uid: int = UID) -> None:
        await self.engine.change((uid,), lambda collections: function(collections[uid]))

    async def fill(
        self,
        name: bytes,
        *credentials: Credential,
        uid: int = UID,
        kdc_offset: int = 0,
        label: str | None = None,
    ) -> None:
        """Put a new ccache with these credentials, as kinit does."""
        await self.change(lambda each: each.replace(name, ALICE, kdc_offset, credentials, label), uid)

    async def credentials(self, name: bytes, uid: int = UID) -> list[Credential]:
        """The credentials of a ccache in stored order; empty if it does not exist."""

        def read(collection: Collection) -> list[Credential]:
            ccache = collection.get(name)
            return [] if ccache is None else list(ccache.credentials)

        return await self.engine.read((uid,), lambda collections: read(collections[uid]))

    async def at(self, now: float, client: Client) -> list[bytes]:
        """Set the clock; returns the names of all ccaches that the client has got an offer for by then."""
        self.clock.now = now
        self.renewals._wake()
        await client.settled()
        return client.names()
