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

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "errors in pykcm after a commit", 10)

T = TypeVar("T")

Collections = Mapping[int, Collection]

# After so many conflicts of one request others change the UID's ccaches without pause.
_MOST_ATTEMPTS = 20

_ID_SIZE = 8


class CollectionNeededError(Exception):
    """A function needs the collection of this UID as well: it is called again with it."""

    def __init__(self, uid: int) -> None:
        super().__init__(f"the collection of UID {uid} is needed")
        self.uid = uid


class Engine:
    """The one way to collections.

    `watchers` are told what has happened to ccaches once it is durable; nearly always there are none.
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
        """The function's result, of collections that nobody changes meanwhile; raises StoreError.

        `keep`: a user asks, and collections that were not in the cache stay there.
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
        """The function's result, once all that it has changed is durable; raises StoreError.

        Where it raises an exception, or the store refuses, nothing has changed. `keep` is as for `read`.
        """
        wanted = tuple(uids)
        while True:
            try:
                return await self._run(
                    sorted(set(wanted)) if len(wanted) > 1 else wanted, function, keep=keep
                )
            except CollectionNeededError as needed:
                if needed.uid in wanted:
                    raise RuntimeError(f"the collection of UID {needed.uid} was there") from None
                wanted = (*wanted, needed.uid)

    async def _run(self, uids: Sequence[int], function: Callable[[Collections], T], *, keep: bool) -> T:
        """Run the function in the queues of these UIDs, which are ascending.

        All take queues in that order: two that want the same ones never wait for each other.
        """
        entered = 0
        try:
            for uid in uids:
                if not self.uid_queues.enter_if_free(uid):
                    await self.uid_queues.enter(uid)
                entered += 1
            absent = [] if keep else [uid for uid in uids if not self.collection_cache.is_present(uid)]
            try:
                return await self._run_until_committed(uids, function, keep=keep)
            finally:
                for uid in absent:
                    self.collection_cache.release(uid)
        finally:
            for uid in uids[:entered]:
                self.uid_queues.leave(uid)
            self._make_room()

    async def _run_until_committed(
        self, uids: Sequence[int], function: Callable[[Collections], T], *, keep: bool
    ) -> T:
        for _ in range(_MOST_ATTEMPTS):
            collections = {uid: await self.collection_cache.get(uid, is_wanted=keep) for uid in uids}
            result, is_committed = await self._attempt(collections, function)
            if is_committed:
                return result
        raise StoreError("other hosts change these ccaches all the time", errno.EAGAIN)

    async def _attempt(
        self, collections: Collections, function: Callable[[Collections], T]
    ) -> tuple[T, bool]:
        """Run the function once; gives its result, and whether that counts: not after a conflict."""
        befores = (
            self.watchers.each(lambda watcher: watcher.before(collections.values())) if self.watchers else []
        )
        changed: list[Changed] = []
        is_committed = False
        try:
            try:
                result = function(collections)
            finally:
                changed += [
                    Changed(each, changes)
                    for each in collections.values()
                    if (changes := each.take_changes())
                ]
            is_committed = not changed or await self._commit(changed)
        finally:
            if not is_committed:
                # The cache has what the store has not.
                for each in changed:
                    self.collection_cache.drop(each.collection.uid)
                    self.collection_cache.take_back(added_ccaches(each.changes))
        if is_committed and changed:
            self._note_committed(changed, befores)
        return result, is_committed

    async def _commit(self, changed: Sequence[Changed]) -> bool:
        """Whether the changes are durable; False after a conflict. Raises StoreError."""
        version = self.collection_cache.version
        entry = Entry(
            [
                secret_change
                for collection, changes in changed
                for secret_change in secret_changes(collection.uid, changes)
            ],
            {collection.uid: version(collection.uid) for collection, _ in changed},
            sum(written_size(changes) for _, changes in changed),
            self._id_prefix + next(self._numbers).to_bytes(_ID_SIZE),
        )
        outcome: Outcome | None = await self.committer.commit(entry)
        if isinstance(outcome, Unknown):
            outcome = await self.store.outcome(entry)
        match outcome:
            case Committed(versions):
                self.collection_cache.note_versions(versions)
                return True
            case Refused(error):
                raise error
        return False

    def _note_committed(
        self, changed: Sequence[Changed], befores: list[tuple[Watch, dict[int, bytes]]]
    ) -> None:
        """Weigh, log, count and report changes. They are durable: nothing here may fail the request."""
        try:
            for collection, changes in changed:
                self.collection_cache.weigh(collection)
                if removals := removals_in(changes):
                    log_removals(collection.uid, removals)
                    self.removals.add(removals)
            for watcher, before in befores:
                self.watchers.tell(watcher, watcher.committed, changed, before)
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


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of work. A caller that is cancelled meanwhile still waits until the work has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
