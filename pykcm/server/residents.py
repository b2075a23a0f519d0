"""The collections in memory: each is read from the store once, and from then on is the truth for reads."""

import time

from pykcm.ccaches.collection import Clock, Collection
from pykcm.ccaches.quotas import Census, Quotas
from pykcm.server.persistence import restore
from pykcm.store.interface import Store


class Residents:
    """Collections by UID. A collection is read and changed only in its UID's turn (see Lanes)."""

    def __init__(self, store: Store, quotas: Quotas, clock: Clock = time.time) -> None:
        self._store = store
        self._quotas = quotas
        self._clock = clock
        self._census = Census()
        self._collections: dict[int, Collection] = {}

    def present(self, uid: int) -> Collection | None:
        """The collection, where it is in memory already."""
        return self._collections.get(uid)

    async def get(self, uid: int) -> Collection:
        """The collection, read from the store where need be; raises StoreError."""
        if self._quotas.max_ccaches and self._census.total is None:
            self._census.total = await self._store.count_ccaches()
        collection = self._collections.get(uid)
        if collection is None:
            collection = Collection(uid, self._clock, self._quotas, self._census)
            restore(collection, await self._store.load(uid))
            self._collections[uid] = collection
        return collection

    def release(self, uid: int) -> None:
        """Let go of a collection that is as it is stored: the next to ask reads it again."""
        self._collections.pop(uid, None)

    def drop(self, uid: int) -> None:
        """Forget a collection that may differ from what is stored: the next to ask reads it again."""
        self.release(uid)
        self._census.total = None
