"""UIDs take turns: who is served next when more has come than can be served at once.

Nearly always nothing waits, and a request is served where it arrives. When serving has gone on for a slice
of time without a pause, what comes next from the UIDs served in it queues up: one request of each UID in
rotation, slice by slice, and between slices the event loop looks for what others have sent. So it makes no
difference to one user how many connections another one has.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

# Seconds. As short as turning to the event loop and back allows at a cost of a few percent.
_SLICE = 0.000_5

# After so many seconds without a request the event loop has looked at all sockets.
_PAUSE = 0.000_05

# UIDs whose first request is served although the slice is over: each delays the others.
_MOST_BEYOND = 64


class Servable(Protocol):
    """What waits for its turn."""

    def take_turn(self) -> None:
        """Read, serve and send once."""


class FairQueue:
    """Decides for each request whether it is served at once, and keeps those that are not.

    `now`: when a request was last asked for or served, in seconds of `clock`; whoever serves one sets it.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self._waiting: OrderedDict[int, deque[Servable]] = OrderedDict()
        self._served: set[int] = set()  # the UIDs, in this slice
        self._is_due = False
        self._slice_began = 0.0
        self.now = 0.0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def admits(self, uid: int) -> bool:
        """Whether the UID's request that has just come is served at once; otherwise it is to `wait`."""
        now = self.clock()
        if now - self.now > _PAUSE and not self._waiting:
            self._slice_began = now
            self._served.clear()
        self.now = now
        spent = now - self._slice_began
        if spent > _SLICE * 0.8:
            # If the event loop turns before the slice is over, the next one begins, and nobody has to wait.
            self._serve_soon()
        if spent < _SLICE and not self._waiting:
            self._served.add(uid)
            return True
        # The first one of a UID delays nobody by more than itself, and commits together with the others'.
        if uid in self._served or uid in self._waiting or len(self._served) >= _MOST_BEYOND:
            return False
        self._served.add(uid)
        return True

    def wait(self, uid: int, servable: Servable) -> None:
        """Have its turn taken when it is the UID's and it is first among the UID's own."""
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
            # Before the turn is taken: who has more to be served queues up again behind the others.
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
