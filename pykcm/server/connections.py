"""All connections together: to tell idleness by, and to end them in order."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from pykcm.logs import Throttle


class Closable(Protocol):
    """What is asked of a connection."""

    def finish(self) -> None:
        """Answer what has begun, then close."""

    def abort(self) -> None:
        """Close at once."""


class Connections:
    """The open connections. `idle_timeout` seconds without any, `on_idle` is called (0: never)."""

    def __init__(self, idle_timeout: float, on_idle: Callable[[], None]) -> None:
        self._idle_timeout = idle_timeout
        self._on_idle = on_idle
        self._open: set[Closable] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_ending = False
        self.broken_off_warnings = Throttle(100)
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def add(self, connection: Closable) -> None:
        self._open.add(connection)
        self._all_closed.clear()
        self._stop_timer()
        if self._is_ending:
            # Accepted before the listening socket was closed, and told only now.
            connection.finish()

    def discard(self, connection: Closable) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()
            if not self._is_ending:
                self.start_timer()

    def start_timer(self) -> None:
        """Begin to count the idle time; a connection stops it."""
        self._stop_timer()
        if self._idle_timeout:
            self._timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._on_idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def finish(self, patience: float) -> int:
        """End all in order; those that take longer than `patience` seconds are cut off, and counted."""
        self._is_ending = True
        self._stop_timer()
        for connection in list(self._open):
            connection.finish()
        try:
            async with asyncio.timeout(patience):
                await self._all_closed.wait()
        except TimeoutError:
            pass
        late = list(self._open)
        for connection in late:
            connection.abort()
        return len(late)
