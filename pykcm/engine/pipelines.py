"""Functions of one UID: each runs in memory, on the changes of earlier ones that are not durable yet.

A function leaves its UID's queue when it has run. Its caller waits for the commit of all that it has changed
or seen. At each time at most one entry of a UID is in the store. Later changes are the next entry, based
on the version that the first one gives: a UID's changes become durable in their order.

If an entry is not committed, the collection in memory is dropped and read again. The functions that have
seen it, and were not the cause, run again: each by itself and in their order, while all others wait.

Of a store that other hosts change, a function runs on memory at once, and the check of what it has seen
follows (see `run_checked`).
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from pykcm.ccaches.changes import Change, added_ccaches, written_size
from pykcm.ccaches.collection import Collection
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.commits import Commits
from pykcm.engine.events import Changed
from pykcm.engine.persistence import secret_changes
from pykcm.engine.uid_queues import Collections, PendingCall, Seen, UidQueue, UidQueues
from pykcm.logs import LimitedLog
from pykcm.protocol.codes import KcmError
from pykcm.store.interface import (
    Committed,
    Conflict,
    Entry,
    Freshness,
    Outcome,
    Refused,
    Store,
    StoreError,
    Unknown,
)

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "errors in pykcm after a request", 10)

T = TypeVar("T")


class CollectionNeededError(Exception):
    """A function needs the collection of this UID as well: it is called again with it."""

    def __init__(self, uid: int) -> None:
        super().__init__(f"the collection of UID {uid} is needed")
        self.uid = uid


class _PendingChanges:
    """Implements Changes: those of one UID's pending calls."""

    __slots__ = ("_entry", "_pipelines", "_queue", "operations", "size")

    def __init__(self, pipelines: "Pipelines", queue: UidQueue) -> None:
        self._pipelines = pipelines
        self._queue = queue
        self._entry: Entry | None = None
        self.size = queue.pending[0].size
        self.operations = 1

    def take(self) -> Entry:
        calls = self._queue.begin_commit()
        secrets, size = calls[0].secrets, calls[0].size
        if len(calls) > 1:
            secrets = [secret for call in calls for secret in call.secrets]
            size = sum([call.size for call in calls])
            self.operations = sum([bool(call.changes) for call in calls])
        changes = (call.changes for call in calls)
        self._entry = self._pipelines.commits.entry(secrets, (self._queue.uid,), size, changes)
        return self._entry

    def end(self, outcome: Outcome) -> None:
        self._pipelines.end_commit(self._queue, self._entry, outcome)


class Pipelines:
    """The calls of each UID, in its queue and behind it."""

    def __init__(
        self, store: Store, collection_cache: CollectionCache, uid_queues: UidQueues, commits: Commits
    ) -> None:
        self._store = store
        self._collection_cache = collection_cache
        self._uid_queues = uid_queues
        self.commits = commits
        self._tasks: set[asyncio.Task[None]] = set()  # kept, because an event loop holds tasks weakly

    async def run_checked(
        self,
        freshness: Freshness,
        uid: int,
        function: Callable[[Collections], T],
        *,
        keep: bool,
        may_change: bool,
    ) -> T:
        """As `run`, for a store that other hosts change: the result counts only for the newest version.

        A commit of changes is the check of its own base. A result without changes, or an exception, follows
        from the version in memory. If that is still the newest one, in an answer to a question that was sent
        after the function was handed in, the result was right at that time. Otherwise the function runs
        again, on a version that is no older than this answer.

        A collection is copied before a change. If the store refuses the change, the copy is read from while
        the store cannot be read. If the change may have been made, reads fail until the store can be read.
        """
        seen = Seen(may_change=may_change)
        failure: Exception | None = None
        result: T | None = None
        try:
            result = await self.run(uid, function, keep=keep, seen=seen)
        except CollectionNeededError:
            raise
        except Exception as error:  # noqa: BLE001 - raised below, if it follows from the newest version
            failure = error
        if seen.version is not None and not freshness.is_known_newest(uid, seen.version):
            newest = await freshness.newest_version(uid)
            if newest > seen.version:
                failure = None
                return await self.run(uid, function, keep=keep, seen=Seen(newest, may_change=may_change))
        if failure is None:
            return cast("T", result)
        try:
            if not self._may_have_room(failure):
                raise failure
        finally:
            del failure
        return await self.run(uid, function, keep=keep)

    def _may_have_room(self, failure: Exception) -> bool:
        """Whether a quota may have refused the change only because other hosts have removed ccaches since."""
        if isinstance(failure, KcmError) and failure.code == errno.EDQUOT:
            self._collection_cache.forget_count()
            return self._collection_cache.most_ccaches > 0
        return False

    async def run(
        self, uid: int, function: Callable[[Collections], T], *, keep: bool, seen: Seen | None = None
    ) -> T:
        """Run the function and leave the queue; give its result when that is durable."""
        queue = self._uid_queues.enter_if_open(uid) or await self._uid_queues.enter(uid)
        try:
            if queue.is_stopped:
                await self._uid_queues.drain(queue)
            if seen is not None:
                await self._see(queue, seen)
            collection = self._collection_cache.present(uid) if keep else None
            if collection is None or queue.is_unwanted:
                self.note_wanted(queue, keep=keep)
                if collection is None:
                    collection = await self._collection_cache.get(uid, is_wanted=keep)
            if seen is not None and seen.may_change and not queue.pending:
                self._collection_cache.save(uid)
            call = PendingCall(function, keep=keep, seen=seen)
            self._call(call, queue, collection)
            if not (call.changes or queue.pending):
                result: T = call.result
                return result
            call.done = asyncio.get_running_loop().create_future()
            queue.add(call)
            if not queue.is_submitted:
                self._submit(queue)
            elif call.changes:
                self.commits.committer.submitted += 1
        finally:
            if queue.pending and not queue.waiting and queue.drained is None:
                # As `leave`, without three calls: nobody waits for the queue, and it is still needed.
                queue.is_entered = False
            else:
                self.leave(queue)
        await call.done
        result = call.outcome()
        return result  # noqa: RET504 - named for its type

    async def _see(self, queue: UidQueue, seen: Seen) -> None:
        """Drop a collection that is older than `seen.least` from memory; note the version that is left."""
        if self._version_in(queue) < seen.least:
            await self._uid_queues.drain(queue)
            if self._version_in(queue) < seen.least:
                self._collection_cache.drop(queue.uid)
        if not self._collection_cache.is_present(queue.uid):
            return
        if any(call.changes for call in queue.pending[queue.committing :]):
            # The result waits for a commit that is yet to be sent, which checks the version.
            return
        seen.version = self._version_in(queue)

    def _version_in(self, queue: UidQueue) -> int:
        """The version in memory, once the changes that are being committed are stored; 0: there is none."""
        if not self._collection_cache.is_present(queue.uid):
            return 0
        return self._collection_cache.version(queue.uid) + bool(queue.committing)

    def note_wanted(self, queue: UidQueue, *, keep: bool) -> None:
        """Note whether the UID's collection stays in the cache, before it is read."""
        if keep:
            queue.is_unwanted = False
        elif not self._collection_cache.is_present(queue.uid):
            queue.is_unwanted = True

    def _call(self, call: PendingCall, queue: UidQueue, collection: Collection) -> None:
        """Run the call's function. If that raises an exception, the call changes nothing.

        Raises the exception if it depends on nothing that is not durable.
        """
        collections = {collection.uid: collection}
        changes: list[Change] = []
        try:
            before = self.commits.before(collections) if self.commits.watchers else []
            call.result = call.function(collections)
            if collection.has_changed:
                changes = collection.take_changes()
                call.secrets = secret_changes(collection.uid, changes)
                call.size = written_size(changes)
                if before:
                    call.events = self.commits.events(before, [Changed(collection, changes)])
                call.changes = changes
                if call.seen is not None:
                    # Its commit is the check.
                    call.seen.version = None
        except BaseException as error:
            call.secrets, call.size = (), 0
            changes += collection.take_changes()
            if changes:
                # The collection is in memory as the function has left it half-way.
                self._collection_cache.take_back(added_ccaches(changes))
                self._forget(queue)
            if not queue.pending or isinstance(error, CollectionNeededError):
                raise
            if not isinstance(error, Exception):
                raise
            # The caller must not see it before what it follows from is durable.
            call.error = error

    def _submit(self, queue: UidQueue) -> None:
        queue.is_submitted = True
        self.commits.committer.submit(_PendingChanges(self, queue))

    def end_commit(self, queue: UidQueue, entry: Entry | None, outcome: Outcome) -> None:
        """Answer the calls whose changes were the entry, and go on with the UID's next ones."""
        if type(outcome) is Committed:
            self._end_durable(queue, outcome)
        elif type(outcome) is Unknown and entry is not None:
            self._begin(self._find_out(queue, entry))
        else:
            self._run_again(queue, outcome)

    def _end_durable(self, queue: UidQueue, outcome: Committed) -> None:
        self._collection_cache.note_versions(outcome.versions)
        durable = queue.end_commit()
        for call in durable:
            if call.changes and not self.commits.note_durable(queue.uid, call.changes, call.events):
                self._forget(queue)
            call.answer()
        if queue.is_stopped:
            self._run_again(queue, None)
            return
        queue.is_submitted = False
        if queue.pending:
            self._submit(queue)
        self._go_on(queue)

    async def _find_out(self, queue: UidQueue, entry: Entry) -> None:
        """Go on when it is known whether the entry was committed, or that this cannot be known."""
        outcome: Outcome = Unknown(StoreError("interrupted"))
        try:
            outcome = await self._store.outcome(entry) or Conflict(())
        except StoreError as error:
            outcome = Unknown(error)
        finally:
            if type(outcome) is Committed:
                self._end_durable(queue, outcome)
            else:
                self._run_again(queue, outcome)

    def _run_again(self, queue: UidQueue, outcome: Outcome | None) -> None:
        """Read the collection again, and run the pending calls again on what is stored.

        `outcome`: of their first changes. Calls whose changes may be durable (Unknown), or were refused by
        themselves, do not run again, but fail.
        """
        for call in queue.pending:
            self._collection_cache.take_back(added_ccaches(call.changes))
        self._collection_cache.forget_count()
        self.commits.note_dropped(queue.uid)
        writes = [call for call in queue.pending[: queue.committing] if call.changes]
        if type(outcome) is Unknown or (type(outcome) is Refused and len(writes) == 1):
            queue.pending = [call for call in queue.pending if call not in writes]
            for call in writes:
                call.fail(StoreError(outcome.error.reason, outcome.error.code))
        queue.committing = 0
        queue.is_submitted = False
        queue.is_stopped = bool(queue.pending)
        if type(outcome) is Refused and not queue.is_stopped:
            self._collection_cache.take_saved_back(queue.uid)
        else:
            # Also after Unknown: if the change was made, the copy from before it is old.
            self._collection_cache.drop(queue.uid)
        if queue.is_stopped:
            self._begin(self._run_pending(queue))
        else:
            queue.size = 0
            self._go_on(queue)

    async def _run_pending(self, queue: UidQueue) -> None:
        """Run each pending call again, by itself."""
        try:
            while queue.pending:
                call = queue.pending[0]
                if not call.done.done():  # else its caller has gone
                    if call.seen is not None:
                        # The collection is read from the store for it.
                        call.seen.version = None
                    try:
                        call.result = await self.commits.run_alone((queue.uid,), call.function, call.keep)
                        call.error = None
                    except Exception as error:  # noqa: BLE001 - it is the call's
                        call.error = error
                del queue.pending[0]
                call.answer()
        finally:
            for call in queue.pending:
                call.fail(StoreError("interrupted"))
            queue.pending.clear()
            queue.size = 0
            queue.is_stopped = False
            self._go_on(queue)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forget(self, queue: UidQueue) -> None:
        """Read the collection again before the next call: now, or after what is being committed."""
        if queue.pending:
            queue.is_stopped = True
        else:
            self._collection_cache.drop(queue.uid)

    def _go_on(self, queue: UidQueue) -> None:
        if self._uid_queues.go_on(queue):
            self._free(queue)
        else:
            self._make_room()

    def leave(self, queue: UidQueue) -> None:
        """Leave a queue that was entered."""
        if self._uid_queues.leave(queue):
            self._free(queue)

    def _free(self, queue: UidQueue) -> None:
        self._collection_cache.forget_saved(queue.uid)
        if queue.is_unwanted:
            self._collection_cache.drop(queue.uid)
        self._make_room()

    def _make_room(self) -> None:
        try:
            self._collection_cache.make_room(self._uid_queues.is_free)
        except Exception:  # noqa: BLE001 - logged with its traceback
            _FAULTS.write(
                logging.ERROR, None, "no room made in the cache, by an error in pykcm", with_traceback=True
            )
