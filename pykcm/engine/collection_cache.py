"""The cache of decoded collections. A collection is read from the store once, and then from memory.

When the cache is full, collections are dropped, and read again when they are needed: first the large ones,
then the least recently used. A user who stores much evicts no other user's collection.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import chain

from pykcm.ccaches.collection import Clock, Collection
from pykcm.ccaches.quotas import CCacheCount, Quotas, UsersNearQuotas
from pykcm.engine.persistence import restoring
from pykcm.engine.slices import Slices
from pykcm.store.interface import Store

# A collection that takes up more than this fraction of the cache is large. The small collections of some
# thousand users always have room.
_LARGE = 64


class CollectionCache:
    """Collections by UID. Only the caller that has entered a UID's queue uses its collection.

    `cache_size`: the most bytes of memory for all collections; 0: no limit. `removal_clock`
    decides which ccaches are removed as expired (see Collection.removal_time).
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
        # A UID that was near a quota counts when its collection is no longer in the cache as well.
        self.users_near_quotas = UsersNearQuotas(quotas)
        self._cache_size = cache_size
        self._clock = clock
        self._removal_clock = removal_clock or clock
        self._slices = Slices()
        self._ccache_count = CCacheCount()
        # The limit that the store checks at each commit, because other hosts make ccaches, too. 0: none.
        self.most_ccaches = quotas.max_ccaches if store.freshness is not None else 0
        # The most recently used one is at the end.
        self._collections: OrderedDict[int, Collection] = OrderedDict()
        self._versions: dict[int, int] = {}
        # Copies of collections before changes that are not durable, with their versions.
        self._saved: dict[int, tuple[Collection, int]] = {}
        self._footprints: dict[int, int] = {}
        self._footprint = 0
        # The large ones among them, in the same order.
        self._large: OrderedDict[int, None] = OrderedDict()
        # How often a collection was in the cache, was read from the store, and was dropped to make room.
        self.hits = 0
        self.misses = 0
        self.let_go = 0

    def __len__(self) -> int:
        return len(self._collections)

    @property
    def footprint(self) -> int:
        """About how many bytes of memory all collections take."""
        return self._footprint

    def present(self, uid: int) -> Collection | None:
        """The collection, if it is in the cache. It counts as used."""
        collection = self._collections.get(uid)
        if collection is not None:
            self._collections.move_to_end(uid)
            if uid in self._large:
                self._large.move_to_end(uid)
            self.hits += 1
        return collection

    def is_present(self, uid: int) -> bool:
        """Whether the collection is in the cache. It does not count as used."""
        return uid in self._collections

    async def get(self, uid: int, *, is_wanted: bool = True) -> Collection:
        """The collection, read from the store if it is not in the cache; raises StoreError.

        Not `is_wanted`: no client has asked, and the collection does not count as used.
        """
        collection = self.present(uid) if is_wanted else self._collections.get(uid)
        if collection is None:
            await self.count()
            collection = await self._read(uid)
            self.misses += is_wanted
            self._collections[uid] = collection
            self.weigh(collection)
        return collection

    async def count(self) -> None:
        """Count all ccaches, if their number is limited and not known; raises StoreError."""
        if self._quotas.max_ccaches and self._ccache_count.total is None:
            total = await asyncio.ensure_future(self._store.count_ccaches())
            # Another caller that waited for the number may have made a ccache already.
            if self._ccache_count.total is None:
                self._ccache_count.total = total

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
        """Note the versions of cached collections after a commit, by UID."""
        self._versions.update(versions)
        if self._saved:
            for uid in versions:
                self._saved.pop(uid, None)

    def drop(self, uid: int) -> None:
        """Remove a collection from the cache: the next caller reads it again."""
        self._collections.pop(uid, None)
        self._large.pop(uid, None)
        self._versions.pop(uid, None)
        self._saved.pop(uid, None)
        self._footprint -= self._footprints.pop(uid, 0)

    def save(self, uid: int) -> None:
        """Keep a copy of a cached collection, until its next changes are durable or dropped."""
        self._saved[uid] = (self._collections[uid].copy(self._ccache_count), self._versions[uid])

    def forget_saved(self, uid: int) -> None:
        if self._saved:
            self._saved.pop(uid, None)

    def take_saved_back(self, uid: int) -> None:
        """Drop a collection, and put the copy from before its changes in its place, if there is one."""
        saved = self._saved.get(uid)
        self.drop(uid)
        if saved is not None:
            self._collections[uid], self._versions[uid] = saved
            self.weigh(saved[0])

    def take_back(self, more: int) -> None:
        """Take back the count of ccaches of a change that was not stored; negative: it removed some."""
        if self._ccache_count.total is not None:
            self._ccache_count.total -= more

    def forget_count(self) -> None:
        """Count all ccaches again, when a collection is next read, if other hosts may have made some.

        Until then their number limits nothing here, but the store checks it at each commit.
        """
        if self.most_ccaches:
            self._ccache_count.total = None

    def weigh(self, collection: Collection) -> None:
        """Note the size of a collection that was changed, and its use of quotas."""
        self.users_near_quotas.note(collection.uid, collection.use)
        footprint = collection.footprint
        self._footprint += footprint - self._footprints.get(collection.uid, 0)
        self._footprints[collection.uid] = footprint
        if self._cache_size < footprint * _LARGE:
            self._large[collection.uid] = None
        else:
            self._large.pop(collection.uid, None)

    def weigh_if_present(self, uid: int) -> None:
        """Note the size of a collection that was changed, if it is in the cache."""
        collection = self._collections.get(uid)
        if collection is not None:
            self.weigh(collection)

    def make_room(self, is_free: Callable[[int], bool]) -> None:
        """Remove collections in their order until the others fit; never the most recently used one.

        `is_free`: whether nobody uses the collection of this UID.
        """
        if not self._cache_size or self._footprint <= self._cache_size:
            return
        last = next(reversed(self._collections), None)
        excess = self._footprint - self._cache_size
        removed: dict[int, None] = {}
        for uid in chain(self._large, self._collections):
            if uid != last and uid not in removed and is_free(uid):
                removed[uid] = None
                excess -= self._footprints[uid]
                if excess <= 0:
                    break
        for uid in removed:
            self.drop(uid)
        self.let_go += len(removed)
