"""The collections in memory: read from the store when asked for, and from then on the truth for reads.

Those that were asked for longest ago make room when all together grow too large; they are read again when
they are wanted again.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from pykcm.ccaches.collection import Clock, Collection
from pykcm.ccaches.quotas import Census, Quotas
from pykcm.server.persistence import restore
from pykcm.store.interface import Store


class Residents:
    """Collections by UID. A collection is read and changed only in its UID's turn (see Lanes).

    `cache_size`: bytes of memory that all together may take up; 0: no limit.
    """

    def __init__(self, store: Store, quotas: Quotas, cache_size: int = 0, clock: Clock = time.time) -> None:
        self._store = store
        self._quotas = quotas
        self._cache_size = cache_size
        self._clock = clock
        self._census = Census()
        # The one that was asked for last stands at the end.
        self._collections: OrderedDict[int, Collection] = OrderedDict()
        self._footprints: dict[int, int] = {}
        self._footprint = 0
        # How often a collection was asked for that was there, was read, and was let go to make room.
        self.hits = 0
        self.misses = 0
        self.let_go = 0

    def __len__(self) -> int:
        return len(self._collections)

    @property
    def footprint(self) -> int:
        """Bytes of memory that all together take up, about."""
        return self._footprint

    def present(self, uid: int) -> Collection | None:
        """The collection, where it is in memory already."""
        collection = self._collections.get(uid)
        if collection is not None:
            self._collections.move_to_end(uid)
            self.hits += 1
        return collection

    def is_present(self, uid: int) -> bool:
        """Whether it is in memory; asking so does not keep it there."""
        return uid in self._collections

    async def get(self, uid: int, *, is_wanted: bool = True) -> Collection:
        """The collection, read from the store where need be; raises StoreError.

        Not `is_wanted`: it is no user who asks, and that it was asked for does not count.
        """
        if self._quotas.max_ccaches and self._census.total is None:
            self._census.total = await self._store.count_ccaches()
        collection = self.present(uid) if is_wanted else self._collections.get(uid)
        if collection is None:
            collection = Collection(uid, self._clock, self._quotas, self._census)
            restore(collection, await self._store.load(uid))
            self.misses += is_wanted
            self._collections[uid] = collection
            self.weigh(collection)
        return collection

    def release(self, uid: int) -> None:
        """Let go of a collection that is as it is stored: the next to ask reads it again."""
        self._collections.pop(uid, None)
        self._footprint -= self._footprints.pop(uid, 0)

    def drop(self, uid: int) -> None:
        """Forget a collection that may differ from what is stored: the next to ask reads it again."""
        self.release(uid)
        self._census.total = None

    def weigh(self, collection: Collection) -> None:
        """Take note that a collection may have another size now."""
        footprint = collection.footprint
        self._footprint += footprint - self._footprints.get(collection.uid, 0)
        self._footprints[collection.uid] = footprint

    def make_room(self, may_go: Callable[[int], bool]) -> None:
        """Forget collections until they fit, the least recently used first; never the last one used.

        `may_go` tells by UID which are in nobody's turn.
        """
        if not self._cache_size or self._footprint <= self._cache_size:
            return
        for uid in list(self._collections)[:-1]:
            if may_go(uid):
                self.release(uid)
                self.let_go += 1
                if self._footprint <= self._cache_size:
                    return
