"""Long work in slices: between two slices of one piece of work, the event loop serves other requests.

One iteration of the event loop runs at most one slice of all such work, in rotation. A request waits the same
time however many users cause such work.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

# The most pieces of work that run concurrently. Each may hold a whole collection in memory, which the cache
# does not count yet.
_AT_ONCE = 2


class Slices:
    """Rotates long pieces of work."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Future[None]] = deque()
        self._begun = 0
        self._to_begin: deque[asyncio.Future[None]] = deque()
        self._is_due = False

    def work(self) -> "Work":
        """A piece of work, for `async with`."""
        return Work(self)

    async def begin(self) -> None:
        """Wait for a place among the concurrent pieces of work."""
        if self._begun < _AT_ONCE:
            self._begun += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._to_begin.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self.end()  # the place was handed over in the same moment
            raise

    def end(self) -> None:
        """Give the place of a finished piece of work to the next one."""
        while self._to_begin:
            place = self._to_begin.popleft()
            if not place.done():
                place.set_result(None)  # the place is handed over, not freed
                return
        self._begun -= 1

    async def next(self) -> None:
        """Wait for the next turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._ready.append(turn)
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._run)
        await turn

    def _run(self) -> None:
        while self._ready:
            turn = self._ready.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        self._is_due = bool(self._ready)
        if self._is_due:
            asyncio.get_running_loop().call_soon(self._run)


class Work:
    """One piece of work. Its first slice runs at once, and nearly always it is the only one."""

    __slots__ = ("_has_begun", "_slices")

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._has_begun = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._has_begun:
            self._slices.end()

    async def pause(self) -> None:
        """End the slice, and wait for the turn of the next one."""
        if not self._has_begun:
            await self._slices.begin()
            self._has_begun = True
        await self._slices.next()
