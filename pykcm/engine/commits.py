"""The entries of commits, functions that are committed alone, and the work that follows each commit."""

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Protocol, TypeVar

from pykcm.ccaches.changes import Change, added_ccaches, removals_in, written_size
from pykcm.ccaches.renewal import ccaches_with_other_tgts
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.committer import Committer
from pykcm.engine.events import Changed, Event, Watch
from pykcm.engine.observers import Observers
from pykcm.engine.persistence import secret_changes
from pykcm.engine.removals import RemovalCounts, log_removals
from pykcm.engine.uid_queues import Collections
from pykcm.logs import LimitedLog, User
from pykcm.store.interface import Committed, Entry, Freshness, Outcome, Refused, Store, StoreError, Unknown
from pykcm.store.tree import SecretChange

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "errors in pykcm after a commit", 10)

T = TypeVar("T")

# A function fails after so many conflicts: others change the UID's ccaches all the time.
_MOST_ATTEMPTS = 20

# In seconds, between attempts.
_PAUSE = 0.002
_LONGEST_PAUSE = 0.5

_ID_SIZE = 8


class ChangeIndex(Protocol):
    """An index that follows from the collections."""

    def committed(self, uid: int, changes: Sequence[Change]) -> None:
        """Note changes that are durable."""

    def dropped(self, uid: int) -> None:
        """Note that changes of this UID, made in memory, are not durable and may never be."""


class Commits:
    """Commits changes of collections in the cache, and notes what is durable.

    `watchers` get the changes of ccaches when these are durable. There are rarely any.
    """

    def __init__(self, store: Store, collection_cache: CollectionCache) -> None:
        self.committer = Committer(store)
        self.removals = RemovalCounts()
        self.watchers: Observers[Watch] = Observers()
        self.renewal_index: ChangeIndex | None = None
        self._store = store
        self._collection_cache = collection_cache
        # Unique among all processes that use the store.
        self._id_prefix = os.urandom(_ID_SIZE)
        self._numbers = count()

    async def drop_old(self, freshness: Freshness, uids: Sequence[int]) -> None:
        """Drop collections that other hosts have changed; raises StoreError."""
        present = [uid for uid in uids if self._collection_cache.is_present(uid)]
        newest = await asyncio.gather(*map(freshness.newest_version, present))
        for uid, version in zip(present, newest, strict=True):
            if self._collection_cache.version(uid) < version:
                self._collection_cache.drop(uid)

    async def run_alone(self, uids: Sequence[int], function: Callable[[Collections], T], keep: bool) -> T:
        """Run the function, again after each conflict, until its changes are committed.

        Meanwhile no other function of these UIDs runs, and no other changes of theirs are being committed.
        """
        for attempt in range(_MOST_ATTEMPTS):
            if attempt > 1:
                # Imported here, because conflicts are rare, and it loads OpenSSL.
                from random import random  # noqa: PLC0415

                # The others get their commits done meanwhile.
                await asyncio.sleep(min(_PAUSE * attempt**2, _LONGEST_PAUSE) * random())  # noqa: S311
            await self._collection_cache.count()
            collections = {uid: await self._collection_cache.get(uid, is_wanted=keep) for uid in uids}
            before = self.before(collections) if self.watchers else []
            try:
                result = function(collections)
            except BaseException:
                self._drop(_changed(collections))
                raise
            changed = _changed(collections)
            if not changed or await self._commit(changed, before):
                return result
        raise StoreError("other hosts change these ccaches all the time", errno.EAGAIN)

    async def _commit(self, changed: Sequence[Changed], before: list[tuple[Watch, dict[int, bytes]]]) -> bool:
        """Make the changes durable; returns False after a conflict. Raises StoreError."""
        is_committed = False
        try:
            events = self.events(before, changed) if before else []
            secrets = [
                secret for each in changed for secret in secret_changes(each.collection.uid, each.changes)
            ]
            size = sum(written_size(each.changes) for each in changed)
            uids = [each.collection.uid for each in changed]
            entry = self.entry(secrets, uids, size, (each.changes for each in changed))
            outcome: Outcome | None = await self.committer.commit(entry)
            if type(outcome) is Unknown:
                outcome = await self._store.outcome(entry)
            if type(outcome) is Refused:
                raise outcome.error
            if type(outcome) is Committed:
                is_committed = True
                self._collection_cache.note_versions(outcome.versions)
        finally:
            if not is_committed:
                self._drop(changed)
                self._collection_cache.forget_count()
                for each in changed:
                    self.note_dropped(each.collection.uid)
        if is_committed:
            for each in changed:
                if not self.note_durable(each.collection.uid, each.changes, events):
                    self._collection_cache.drop(each.collection.uid)
                events = []
        return is_committed

    def _drop(self, changed: Sequence[Changed]) -> None:
        """Drop collections from the cache that differ from the store."""
        for each in changed:
            self._collection_cache.drop(each.collection.uid)
            self._collection_cache.take_back(added_ccaches(each.changes))

    def entry(
        self,
        secrets: Sequence[SecretChange],
        uids: Iterable[int],
        size: int,
        changes: Iterable[Sequence[Change]],
    ) -> Entry:
        """An entry of these changes, based on what is stored of the UIDs."""
        bases = {uid: self._collection_cache.version(uid) for uid in uids}
        id_ = self._id_prefix + next(self._numbers).to_bytes(_ID_SIZE)
        if self._store.freshness is None:
            return Entry(secrets, bases, size, id_)
        several = list(changes)
        most = self._collection_cache.most_ccaches
        added = sum(map(added_ccaches, several)) if most else 0
        changes_tgts = any(ccaches_with_other_tgts(each) for each in several)
        return Entry(secrets, bases, size, id_, added, most, changes_tgts)

    def before(self, collections: Collections) -> list[tuple[Watch, dict[int, bytes]]]:
        return self.watchers.each(lambda watcher: watcher.before(collections.values()))

    def events(
        self, before: list[tuple[Watch, dict[int, bytes]]], changed: Sequence[Changed]
    ) -> list[tuple[Watch, list[Event]]]:
        """Return the events that each watcher reports once the changes are durable."""
        defaults = {id(watcher): each for watcher, each in before}
        return self.watchers.each(lambda watcher: watcher.events(changed, defaults[id(watcher)]))

    def note_dropped(self, uid: int) -> None:
        """Note that changes of this UID are not durable, and that its collection is read again."""
        if self.renewal_index is not None:
            self.renewal_index.dropped(uid)

    def note_durable(
        self, uid: int, changes: Sequence[Change], events: Iterable[tuple[Watch, list[Event]]]
    ) -> bool:
        """Weigh, log, count and report changes. They are durable: nothing here may fail the request.

        Returns whether that was possible.
        """
        try:
            self._collection_cache.weigh_if_present(uid)
            if removals := removals_in(changes):
                log_removals(uid, removals)
                self.removals.add(removals)
            if self.renewal_index is not None:
                self.renewal_index.committed(uid, changes)
            for watcher, reported in events:
                self.watchers.call(watcher, watcher.committed, reported)
        except Exception:  # noqa: BLE001 - logged with its traceback
            _FAULTS.write(
                logging.ERROR,
                uid,
                "%s: a change is durable, but was not counted, logged or reported, by an error in pykcm",
                User(uid),
                fields={"KCM_UID": uid},
                with_traceback=True,
            )
            return False
        return True


def _changed(collections: Collections) -> list[Changed]:
    return [Changed(each, each.take_changes()) for each in collections.values() if each.has_changed]
