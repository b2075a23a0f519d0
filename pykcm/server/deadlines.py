"""A request that has begun must be complete in time: one timer for all, and none where nothing has begun.

Time is counted in ticks of a daemon that runs. If it was stopped meanwhile (by a signal, or with its
machine), it looks first for what has arrived. A `call_later` for each request would not: after a stop all
timers are due at once, libuv may run them before it looks at the sockets, and a large request takes several
reads.
"""

import asyncio
from itertools import islice
from typing import Protocol

# The patience has so many ticks. The first one may be short, and there is one more.
_TICKS = 10

# The number given up before the event loop sees to others.
_AT_ONCE = 32


class Late(Protocol):
    """What may be late."""

    def give_up(self) -> None:
        """The time is over."""


class Deadlines:
    """Those who have begun something, in the order in which they began; each has `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._due: dict[Late, int] = {}  # by the number of the tick
        self._ticks = 0
        self._tick_due = 0.0  # in seconds of the event loop's clock
        self._timer: asyncio.Handle | None = None

    def begin(self, late: Late) -> None:
        """Give up on it when its time is over; what has begun already is not given more."""
        self._due.setdefault(late, self._ticks + _TICKS + 1)
        if self._timer is None:
            self._start_timer()

    def end(self, late: Late) -> None:
        """It is complete, or gone."""
        self._due.pop(late, None)

    def __len__(self) -> int:
        """How many have begun something."""
        return len(self._due)

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._tick_due = loop.time() + self.patience / _TICKS
        self._timer = loop.call_at(self._tick_due, self._tick)

    def _tick(self) -> None:
        # A tick that is long overdue says nothing about the clients.
        if asyncio.get_running_loop().time() - self._tick_due < self.patience / _TICKS:
            self._ticks += 1
        self._give_up_some()

    def _give_up_some(self) -> None:
        for late, due in list(islice(self._due.items(), _AT_ONCE)):
            if due > self._ticks:
                self._start_timer()
                return
            # Another one's end may have ended it.
            if self._due.pop(late, None) is not None:
                late.give_up()
        if self._due:
            self._timer = asyncio.get_running_loop().call_soon(self._give_up_some)
        else:
            self._timer = None
