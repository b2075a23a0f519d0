"""Deadlines for incomplete requests: one timer for all of them, and none while there are none.

Time is counted in ticks of the running daemon. After the daemon was stopped (by a signal, or with its
machine), it first reads what has arrived meanwhile. With a `call_later` for each request it would not: all
timers would be due at once, libuv may run them before it looks at the sockets, and a large request takes
several reads.
"""

import asyncio
from itertools import islice
from typing import Protocol

# Ticks in one period of patience. One more is added to each deadline, because its first tick may be short.
_TICKS = 10

# Requests given up in one iteration of the event loop.
_AT_ONCE = 32


class Late(Protocol):
    """A connection with an incomplete request."""

    def give_up(self) -> None:
        """The deadline has passed."""


class Deadlines:
    """Connections with an incomplete request, the oldest first; each has `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._due: dict[Late, int] = {}  # by the number of the tick
        self._ticks = 0
        self._tick_due = 0.0  # in seconds of the event loop's clock
        self._timer: asyncio.Handle | None = None

    def begin(self, late: Late) -> None:
        """Set the deadline of a connection, unless it already has one."""
        self._due.setdefault(late, self._ticks + _TICKS + 1)
        if self._timer is None:
            self._start_timer()

    def end(self, late: Late) -> None:
        """The request is complete, or the connection closed."""
        self._due.pop(late, None)

    def __len__(self) -> int:
        """The number of incomplete requests."""
        return len(self._due)

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._tick_due = loop.time() + self.patience / _TICKS
        self._timer = loop.call_at(self._tick_due, self._tick)

    def _tick(self) -> None:
        # If a tick is long overdue, the daemon was late, not the clients.
        if asyncio.get_running_loop().time() - self._tick_due < self.patience / _TICKS:
            self._ticks += 1
        self._give_up_some()

    def _give_up_some(self) -> None:
        for late, due in list(islice(self._due.items(), _AT_ONCE)):
            if due > self._ticks:
                self._start_timer()
                return
            # Giving up one connection may have closed another one.
            if self._due.pop(late, None) is not None:
                late.give_up()
        if self._due:
            self._timer = asyncio.get_running_loop().call_soon(self._give_up_some)
        else:
            self._timer = None
