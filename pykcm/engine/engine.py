"""Reading and changing collections: one function at a time in each UID's queue, durably.

A user of the engine hands in a function. It gets the collections of the UIDs that it asked for, in a
dictionary by UID, and may be called again: it must have no effect but on these collections.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from pykcm.ccaches.collection import Collection
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.commits import ChangeIndex, Commits
from pykcm.engine.pipelines import CollectionNeededError, Pipelines
from pykcm.engine.uid_queues import Collections, UidQueue, UidQueues
from pykcm.store.interface import Store

__all__ = ["CollectionNeededError", "Collections", "Engine", "to_the_end"]

T = TypeVar("T")


class Engine:
    """The one way to collections.

    `watchers` get the changes of ccaches when these are durable. There are rarely any.
    """

    def __init__(self, store: Store, collection_cache: CollectionCache) -> None:
        self.store = store
        self.collection_cache = collection_cache
        self.uid_queues = UidQueues()
        self._commits = Commits(store, collection_cache)
        self._pipelines = Pipelines(store, collection_cache, self.uid_queues, self._commits)
        self.committer = self._commits.committer
        self.removals = self._commits.removals
        self.watchers = self._commits.watchers
        self._freshness = store.freshness

    def report_changes_to(self, index: ChangeIndex) -> None:
        """From now on the index gets every change that is durable."""
        self._commits.renewal_index = index

    def cached(self, uids: Sequence[int]) -> Collections | None:
        """The collections to read at once, if all are in the cache and durable, and nobody changes them.

        Other hosts, too, must not have changed them.
        """
        collections: dict[int, Collection] = {}
        for uid in uids:
            if not self.uid_queues.is_free(uid) or (found := self.collection_cache.present(uid)) is None:
                return None
            if self._freshness is not None and not self._freshness.is_known_newest(
                uid, self.collection_cache.version(uid)
            ):
                return None
            collections[uid] = found
        return collections

    async def read(
        self, uids: Sequence[int], function: Callable[[Collections], T], *, keep: bool = False
    ) -> T:
        """Return the function's result when all that it has seen is durable; raises StoreError.

        `keep`: collections that were not in the cache stay there, because a user asked for them.
        """

        def read(collections: Collections) -> T:
            result = function(collections)
            if any(collection.has_changed for collection in collections.values()):
                raise RuntimeError("a function that only reads has changed a collection")
            return result

        return await self.change(uids, read, keep=keep, may_change=False)

    async def change(
        self,
        uids: Sequence[int],
        function: Callable[[Collections], T],
        *,
        keep: bool = False,
        may_change: bool = True,
    ) -> T:
        """Return the function's result when all that it has seen and changed is durable; raises StoreError.

        Nothing has changed if the function raises an exception or the store refuses. A function that has run
        may still change something if its caller is cancelled. `keep`: see `read`. `may_change`: False for a
        function that only reads.
        """
        wanted = tuple(uids)
        while True:
            try:
                if len(wanted) == 1:
                    if self._freshness is None:
                        return await self._pipelines.run(wanted[0], function, keep=keep)
                    return await self._pipelines.run_checked(
                        *(self._freshness, wanted[0], function), keep=keep, may_change=may_change
                    )
                if len(set(wanted)) == 1:
                    wanted = wanted[:1]
                    continue
                return await to_the_end(self._run_together(wanted, function, keep))
            except CollectionNeededError as needed:
                if needed.uid in wanted:
                    raise RuntimeError(f"the collection of UID {needed.uid} was there") from None
                wanted = (*wanted, needed.uid)

    async def _run_together(self, uids: Sequence[int], function: Callable[[Collections], T], keep: bool) -> T:
        """Run the function in the queues of these UIDs, and keep them until its result is durable."""
        queues: list[UidQueue] = []
        try:
            # In ascending order: two callers that need the same queues never wait for each other.
            for uid in sorted(set(uids)):
                queue = await self.uid_queues.enter(uid)
                queues.append(queue)
                await self.uid_queues.drain(queue)
                self._pipelines.note_wanted(queue, keep=keep)
            if self._freshness is not None:
                await self._commits.drop_old(self._freshness, [queue.uid for queue in queues])
            return await self._commits.run_alone([queue.uid for queue in queues], function, keep)
        finally:
            for queue in queues:
                self._pipelines.leave(queue)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of the work. A cancelled caller still waits until the work has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
