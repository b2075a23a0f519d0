"""A fair queue between UIDs, used while more requests come than can be served at once.

Nearly always nothing waits, and a request is served when it arrives. After a slice of time without a pause,
further requests of the UIDs served in it are queued: one of each UID in rotation. Between slices the event
loop looks for new requests. The number of one user's connections makes no difference to other users.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

# In seconds: long enough that returning to the event loop after it costs only a few percent.
_SLICE = 0.000_5

# In seconds: after a pause of this length the event loop has looked at all sockets.
_PAUSE = 0.000_05

# UIDs whose first request is served although the slice is over. Each of them delays the others.
_UIDS_AFTER_SLICE = 64


class Servable(Protocol):
    """A connection that waits for its turn."""

    def take_turn(self) -> None:
        """Read, serve and send once."""


class FairQueue:
    """Decides for each request whether it is served at once, and queues the others.

    `now`: when a request last came or was served, in seconds of `clock`; the caller sets it after serving.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self._waiting: OrderedDict[int, deque[Servable]] = OrderedDict()
        self._served: set[int] = set()  # UIDs, in this slice
        self._is_due = False
        self._slice_began = 0.0
        self.now = 0.0

    @property
    def waiting(self) -> int:
        """The number of connections that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def admits(self, uid: int) -> bool:
        """Whether a request of the UID that has just come may be served at once. If not, call `wait`."""
        now = self.clock()
        if now - self.now > _PAUSE and not self._waiting:
            self._slice_began = now
            self._served.clear()
        self.now = now
        spent = now - self._slice_began
        if spent > _SLICE * 0.8:
            # If the event loop runs before the slice is over, the next slice begins, and nobody waits.
            self._serve_soon()
        if spent < _SLICE and not self._waiting:
            self._served.add(uid)
            return True
        # The first request of a UID delays others only by itself, and shares their commit.
        if uid in self._served or uid in self._waiting or len(self._served) >= _UIDS_AFTER_SLICE:
            return False
        self._served.add(uid)
        return True

    def wait(self, uid: int, servable: Servable) -> None:
        """Queue a connection of the UID, behind those that the UID has queued earlier."""
        queue = self._waiting.get(uid)
        if queue is None:
            queue = self._waiting[uid] = deque()
        queue.append(servable)
        self._serve_soon()

    def _serve_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        self._is_due = False
        waiting = self._waiting
        self._slice_began = self.clock()
        self._served.clear()
        while waiting:
            uid, queue = next(iter(waiting.items()))
            # Removed before its turn: a connection with more requests queues again, behind the others.
            servable = queue.popleft()
            if queue:
                waiting.move_to_end(uid)
            else:
                del waiting[uid]
            self._served.add(uid)
            servable.take_turn()
            if self.clock() - self._slice_began >= _SLICE:
                break
        if waiting:
            self._serve_soon()
