"""The collections in memory: read from the store when asked for, and from then on the truth for reads.

Some make room when all together grow too large, and are read again when they are wanted again: first the
large ones, then those that were asked for longest ago. A user who stores much makes no other's collection go.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import chain

from pykcm.ccaches.collection import Clock, Collection
from pykcm.ccaches.quotas import CCacheCount, Quotas
from pykcm.engine.persistence import restoring
from pykcm.engine.slices import Slices
from pykcm.store.interface import Store

# A collection is large that takes up more than this part of the cache. All small collections of some thousand
# users have room beside them.
_LARGE = 64


class CollectionCache:
    """Collections by UID. A collection is read and changed only in its UID's turn (see UidQueues).

    `cache_size`: bytes of memory that all together may take up; 0: no limit. By `removal_clock` ccaches are
    removed as expired (see Collection.removal_time).
    """

    def __init__(
        self,
        store: Store,
        quotas: Quotas,
        cache_size: int = 0,
        clock: Clock = time.time,
        removal_clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._quotas = quotas
        self._cache_size = cache_size
        self._clock = clock
        self._removal_clock = removal_clock or clock
        self._slices = Slices()
        self._ccache_count = CCacheCount()
        # The one that was asked for last stands at the end.
        self._collections: OrderedDict[int, Collection] = OrderedDict()
        self._versions: dict[int, int] = {}
        self._footprints: dict[int, int] = {}
        self._footprint = 0
        # Those of them that are large, in the same order.
        self._large: OrderedDict[int, None] = OrderedDict()
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
            if uid in self._large:
                self._large.move_to_end(uid)
            self.hits += 1
        return collection

    def is_present(self, uid: int) -> bool:
        """Whether it is in memory; asking so does not keep it there."""
        return uid in self._collections

    async def get(self, uid: int, *, is_wanted: bool = True) -> Collection:
        """The collection, read from the store where need be; raises StoreError.

        Not `is_wanted`: it is no user who asks, and that it was asked for does not count.
        """
        if self._quotas.max_ccaches and self._ccache_count.total is None:
            total = await asyncio.ensure_future(self._store.count_ccaches())
            # Another who waited for the number may have made a ccache already.
            if self._ccache_count.total is None:
                self._ccache_count.total = total
        collection = self.present(uid) if is_wanted else self._collections.get(uid)
        if collection is None:
            collection = await self._read(uid)
            self.misses += is_wanted
            self._collections[uid] = collection
            self.weigh(collection)
        return collection

    async def _read(self, uid: int) -> Collection:
        collection = Collection(uid, self._clock, self._quotas, self._ccache_count, self._removal_clock)
        async with self._slices.work() as work:
            # In a task: a store may need one.
            loaded = await asyncio.ensure_future(self._store.load(uid, work.pause))
            for _ in restoring(collection, loaded.secrets):
                await work.pause()
        self._versions[uid] = loaded.version
        return collection

    def version(self, uid: int) -> int:
        """The version of a collection in the cache."""
        return self._versions[uid]

    def note_versions(self, versions: Mapping[int, int]) -> None:
        """Collections in the cache have these versions after a commit, by UID."""
        self._versions.update(versions)

    def release(self, uid: int) -> None:
        """Let go of a collection that is as it is stored: the next to ask reads it again."""
        self._collections.pop(uid, None)
        self._large.pop(uid, None)
        self._versions.pop(uid, None)
        self._footprint -= self._footprints.pop(uid, 0)

    def drop(self, uid: int) -> None:
        """Forget a collection that may differ from what is stored: the next to ask reads it again."""
        self.release(uid)

    def take_back(self, more: int) -> None:
        """Changes that made so many ccaches more, or less where that is negative, are not stored."""
        if self._ccache_count.total is not None:
            self._ccache_count.total -= more

    def weigh(self, collection: Collection) -> None:
        """Take note that a collection may have another size now."""
        footprint = collection.footprint
        self._footprint += footprint - self._footprints.get(collection.uid, 0)
        self._footprints[collection.uid] = footprint
        if self._cache_size < footprint * _LARGE:
            self._large[collection.uid] = None
        else:
            self._large.pop(collection.uid, None)

    def make_room(self, may_go: Callable[[int], bool]) -> None:
        """Forget collections until they fit, in their order; never the last one used.

        `may_go` tells by UID which are in nobody's turn.
        """
        if not self._cache_size or self._footprint <= self._cache_size:
            return
        last = next(reversed(self._collections), None)
        excess = self._footprint - self._cache_size
        going: dict[int, None] = {}
        for uid in chain(self._large, self._collections):
            if uid != last and uid not in going and may_go(uid):
                going[uid] = None
                excess -= self._footprints[uid]
                if excess <= 0:
                    break
        for uid in going:
            self.release(uid)
        self.let_go += len(going)
