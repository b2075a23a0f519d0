"""Queues by UID. The calls of one UID run one after the other, those of different UIDs side by side.

A call is a function that somebody runs on the UID's collection. It leaves the queue as soon as it has run in
memory, and the next one runs on its changes before they are durable. Until then it is pending: its caller
waits for the commit of all that it has changed or seen.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pykcm.ccaches.changes import Change
from pykcm.ccaches.collection import Collection
from pykcm.engine.events import Event, Watch
from pykcm.store.tree import SecretChange

Collections = Mapping[int, Collection]

# A UID has at most so many pending calls, and starts none while their changes have so many bytes.
MOST_PENDING = 64
MOST_PENDING_BYTES = 1024 * 1024

# Changes of one UID are committed together up to so many bytes: a user who writes much does not make the
# others wait longer for the commit that they share.
_TOGETHER = 64 * 1024


class Seen:
    """The version of a collection that a function has run on.

    `least`: memory of an older version is not used. `version`: to be checked; None: it was read or committed
    after the function was handed in. `may_change`: whether the function is one that changes something.
    """

    __slots__ = ("least", "may_change", "version")

    def __init__(self, least: int = 0, *, may_change: bool = True) -> None:
        self.least = least
        self.may_change = may_change
        self.version: int | None = None


class PendingCall:
    """A function that has run in memory, and its result. `done` is set when the caller may have that.

    `changes`: what it has changed, empty if it only reads; `secrets`: the same for the store; `size`: their
    bytes, about; `events`: the events for each watch. `keep` is as in Engine.change. `seen`: the version of
    the collection, if other hosts may change it.
    """

    __slots__ = (
        "changes",
        "done",
        "error",
        "events",
        "function",
        "keep",
        "result",
        "secrets",
        "seen",
        "size",
    )

    done: asyncio.Future[None]

    def __init__(
        self, function: Callable[[Collections], Any], *, keep: bool, seen: Seen | None = None
    ) -> None:
        self.function = function
        self.keep = keep
        self.seen = seen
        self.result: Any = None
        self.error: BaseException | None = None
        self.changes: Sequence[Change] = ()
        self.secrets: Sequence[SecretChange] = ()
        self.size = 0
        self.events: Sequence[tuple[Watch, list[Event]]] = ()

    def outcome(self) -> Any:
        """The function's result; raises its exception, once: its traceback would keep the call in memory."""
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error

    def answer(self) -> None:
        """Let the caller go on, if it still waits."""
        if self.done.done():
            self.error = None
        else:
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Let the caller have this exception."""
        self.error = error
        self.answer()


class UidQueue:
    """The queue of one UID, which one caller has entered at a time.

    `pending`: calls that have run, in their order. The first `committing` of them are being committed.
    `size`: bytes that all of them change, about. `is_submitted`: the committer knows that there are changes.
    `is_stopped`: no call may run, because the collection in memory cannot be used: it has to be read again.
    `is_unwanted`: the collection was read for a caller that does not want it kept in the cache.
    """

    __slots__ = (
        "committing",
        "drained",
        "is_entered",
        "is_stopped",
        "is_submitted",
        "is_unwanted",
        "pending",
        "size",
        "uid",
        "waiting",
    )

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.is_entered = True
        self.is_stopped = False
        self.is_submitted = False
        self.is_unwanted = False
        self.pending: list[PendingCall] = []
        self.committing = 0
        self.size = 0
        self.waiting: deque[asyncio.Future[None]] | None = None
        # Waited for by the caller that has entered.
        self.drained: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a call may enter."""
        return not (
            self.is_entered
            or self.is_stopped
            or len(self.pending) >= MOST_PENDING
            or self.size >= MOST_PENDING_BYTES
        )

    def add(self, call: PendingCall) -> None:
        """Add a call that has run."""
        self.pending.append(call)
        self.size += call.size

    def begin_commit(self) -> list[PendingCall]:
        """The first pending calls, as many as are committed together. They stay pending."""
        pending = self.pending
        number = len(pending)
        if self.size > _TOGETHER:
            number, size = 1, pending[0].size
            while number < len(pending) and (size := size + pending[number].size) <= _TOGETHER:
                number += 1
        self.committing = number
        return pending if number == len(pending) else pending[:number]

    def end_commit(self) -> list[PendingCall]:
        """Remove the calls that are durable now: those committed, and reads behind them."""
        pending = self.pending
        number, self.committing = self.committing, 0
        if number == len(pending):
            self.pending, self.size = [], 0
            return pending
        while number < len(pending) and not pending[number].changes:
            number += 1
        ended = pending[:number]
        del pending[:number]
        self.size = sum([call.size for call in pending])
        return ended


class UidQueues:
    """The queues in use, by UID. Callers wait in their order."""

    def __init__(self) -> None:
        self._queues: dict[int, UidQueue] = {}

    def is_free(self, uid: int) -> bool:
        """Whether the UID has no call that runs, waits or is pending."""
        return uid not in self._queues

    @property
    def occupied(self) -> int:
        """How many UIDs have calls."""
        return len(self._queues)

    @property
    def waiting(self) -> int:
        """The number of waiting callers."""
        return sum(len(queue.waiting) for queue in self._queues.values() if queue.waiting)

    def enter_if_open(self, uid: int) -> UidQueue | None:
        """Enter the queue if nobody has to wait for that; returns it if it was entered."""
        queue = self._queues.get(uid)
        if queue is None:
            queue = self._queues[uid] = UidQueue(uid)
            return queue
        if not queue.is_open:
            return None
        queue.is_entered = True
        return queue

    async def enter(self, uid: int) -> UidQueue:
        """Enter the queue after all earlier callers."""
        queue = self.enter_if_open(uid)
        if queue is not None:
            return queue
        queue = self._queues[uid]
        turn = asyncio.get_running_loop().create_future()
        if queue.waiting is None:
            queue.waiting = deque()
        queue.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave(queue)  # the queue was handed over in the same moment
            raise
        return queue

    def leave(self, queue: UidQueue) -> bool:
        """Leave a queue that was entered; returns as `go_on`."""
        queue.is_entered = False
        return self.go_on(queue)

    def go_on(self, queue: UidQueue) -> bool:
        """Let the next caller enter, if it may; returns whether the queue is no longer needed."""
        if queue.drained is not None and not (queue.pending or queue.is_stopped):
            if not queue.drained.done():
                queue.drained.set_result(None)
            queue.drained = None
        if queue.waiting:
            while queue.waiting and queue.is_open:
                turn = queue.waiting.popleft()
                if not turn.done():
                    queue.is_entered = True  # handed over, and not free in between
                    turn.set_result(None)
        if queue.is_entered or queue.pending or queue.is_stopped:
            return False
        # The queue is open, so that nobody waits.
        del self._queues[queue.uid]
        return True

    async def drain(self, queue: UidQueue) -> None:
        """Wait, having entered the queue, until no call is pending in it."""
        if queue.pending or queue.is_stopped:
            queue.drained = asyncio.get_running_loop().create_future()
            await queue.drained
