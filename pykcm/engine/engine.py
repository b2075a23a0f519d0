"""Reading and changing collections: one at a time in each UID's queue, durably, again after a conflict.

A user of the engine hands in a function. It gets the collections of the UIDs that it asked for, in a
dictionary by UID, and may be called again: it must have no effect but on these collections.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from pykcm.ccaches.changes import added_ccaches, removals_in, written_size
from pykcm.ccaches.collection import Collection
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.committer import Committer
from pykcm.engine.events import Changed, Watch
from pykcm.engine.observers import Observers
from pykcm.engine.persistence import secret_changes
from pykcm.engine.removals import RemovalCounts, log_removals
from pykcm.engine.uid_queues import UidQueues
from pykcm.logs import LimitedLog
from pykcm.store.interface import Committed, Entry, Outcome, Refused, Store, StoreError, Unknown
from pykcm.store.tree import SecretChange

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "errors in pykcm after a commit", 10)

T = TypeVar("T")

Collections = Mapping[int, Collection]

# A request fails after so many conflicts: others change the UID's ccaches all the time.
_MOST_ATTEMPTS = 20

_ID_SIZE = 8


class CollectionNeededError(Exception):
    """A function needs the collection of this UID as well: it is called again with it."""

    def __init__(self, uid: int) -> None:
        super().__init__(f"the collection of UID {uid} is needed")
        self.uid = uid


class Engine:
    """The one way to collections.

    `watchers` get the changes of ccaches when these are durable. There are rarely any.
    """

    def __init__(self, store: Store, collection_cache: CollectionCache) -> None:
        self.store = store
        self.collection_cache = collection_cache
        self.uid_queues = UidQueues()
        self.committer = Committer(store)
        self.removals = RemovalCounts()
        self.watchers: Observers[Watch] = Observers()
        # Unique among all processes that use the store.
        self._id_prefix = os.urandom(_ID_SIZE)
        self._numbers = count()

    def cached(self, uids: Sequence[int]) -> Collections | None:
        """The collections to read at once, if all are in the cache and nobody is changing them."""
        collections: dict[int, Collection] = {}
        for uid in uids:
            if not self.uid_queues.is_free(uid) or (found := self.collection_cache.present(uid)) is None:
                return None
            collections[uid] = found
        return collections

    async def read(
        self, uids: Sequence[int], function: Callable[[Collections], T], *, keep: bool = False
    ) -> T:
        """Return the function's result. Nobody changes these collections meanwhile. Raises StoreError.

        `keep`: collections that were not in the cache stay there, because a user asked for them.
        """

        def read(collections: Collections) -> T:
            result = function(collections)
            if any(collection.has_changed for collection in collections.values()):
                raise RuntimeError("a function that only reads has changed a collection")
            return result

        return await self.change(uids, read, keep=keep)

    async def change(
        self, uids: Sequence[int], function: Callable[[Collections], T], *, keep: bool = False
    ) -> T:
        """Return the function's result when its changes are durable; raises StoreError.

        Nothing has changed if the function raises an exception or the store refuses. `keep`: see `read`.
        """
        wanted = tuple(uids)
        while True:
            try:
                # In ascending order: two callers that need the same queues never wait for each other.
                return await self._run(sorted(set(wanted)) if len(wanted) > 1 else wanted, function, keep)
            except CollectionNeededError as needed:
                if needed.uid in wanted:
                    raise RuntimeError(f"the collection of UID {needed.uid} was there") from None
                wanted = (*wanted, needed.uid)

    async def _run(self, uids: Sequence[int], function: Callable[[Collections], T], keep: bool) -> T:
        """Run the function in the queues of these UIDs, and again after a conflict."""
        entered = 0
        absent: list[int] = []
        try:
            for uid in uids:
                if not self.uid_queues.enter_if_free(uid):
                    await self.uid_queues.enter(uid)
                entered += 1
            if not keep:
                absent = [uid for uid in uids if not self.collection_cache.is_present(uid)]
            for _ in range(_MOST_ATTEMPTS):
                collections = {
                    uid: (keep and self.collection_cache.present(uid))
                    or await self.collection_cache.get(uid, is_wanted=keep)
                    for uid in uids
                }
                earlier = self._before(collections) if self.watchers else []
                result, changed = self._call(function, collections)
                if not changed or await self._commit(changed, earlier):
                    return result
            raise StoreError("other hosts change these ccaches all the time", errno.EAGAIN)
        finally:
            for uid in absent:
                self.collection_cache.release(uid)
            for uid in uids[:entered]:
                self.uid_queues.leave(uid)
            self._make_room()

    def _before(self, collections: Collections) -> list[tuple[Watch, dict[int, bytes]]]:
        return self.watchers.each(lambda watcher: watcher.before(collections.values()))

    def _call(
        self, function: Callable[[Collections], T], collections: Collections
    ) -> tuple[T, list[Changed]]:
        """Return the function's result, and the changes that it made in the cache."""
        try:
            result = function(collections)
        except BaseException:
            self._drop(_changed(collections))
            raise
        return result, _changed(collections)

    async def _commit(
        self, changed: Sequence[Changed], earlier: list[tuple[Watch, dict[int, bytes]]]
    ) -> bool:
        """Make the changes durable; returns False after a conflict. Raises StoreError."""
        is_committed = False
        try:
            entry = self._entry(changed)
            outcome: Outcome | None = await self.committer.commit(entry)
            if type(outcome) is Unknown:
                outcome = await self.store.outcome(entry)
            if type(outcome) is Refused:
                raise outcome.error
            if type(outcome) is Committed:
                is_committed = True
                self.collection_cache.note_versions(outcome.versions)
        finally:
            if not is_committed:
                self._drop(changed)
        if is_committed:
            self._note_committed(changed, earlier)
        return is_committed

    def _entry(self, changed: Sequence[Changed]) -> Entry:
        secrets: list[SecretChange] = []
        bases: dict[int, int] = {}
        size = 0
        for collection, changes in changed:
            secrets += secret_changes(collection.uid, changes)
            bases[collection.uid] = self.collection_cache.version(collection.uid)
            size += written_size(changes)
        return Entry(secrets, bases, size, self._id_prefix + next(self._numbers).to_bytes(_ID_SIZE))

    def _drop(self, changed: Sequence[Changed]) -> None:
        """Drop collections from the cache that differ from the store."""
        for collection, changes in changed:
            self.collection_cache.drop(collection.uid)
            self.collection_cache.take_back(added_ccaches(changes))

    def _note_committed(
        self, changed: Sequence[Changed], earlier: list[tuple[Watch, dict[int, bytes]]]
    ) -> None:
        """Weigh, log, count and report changes. They are durable: nothing here may fail the request."""
        try:
            for collection, changes in changed:
                self.collection_cache.weigh(collection)
                if removals := removals_in(changes):
                    log_removals(collection.uid, removals)
                    self.removals.add(removals)
            for watcher, before in earlier:
                self.watchers.call(watcher, watcher.committed, changed, before)
        except Exception:  # noqa: BLE001 - logged with its traceback
            uid = changed[0].collection.uid
            for each in changed:
                self.collection_cache.drop(each.collection.uid)
            _FAULTS.write(
                logging.ERROR,
                uid,
                "UID %d: a change is durable, but was not counted, logged or reported, by an error in pykcm",
                uid,
                fields={"KCM_UID": uid},
                with_traceback=True,
            )

    def _make_room(self) -> None:
        try:
            self.collection_cache.make_room(self.uid_queues.is_free)
        except Exception:  # noqa: BLE001 - logged with its traceback
            _FAULTS.write(
                logging.ERROR, None, "no room made in the cache, by an error in pykcm", with_traceback=True
            )


def _changed(collections: Collections) -> list[Changed]:
    return [Changed(each, each.take_changes()) for each in collections.values() if each.has_changed]


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of the work. A cancelled caller still waits until the work has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
