"""What happens faster than it is taken: a queue that is bounded, and tells how much was lost."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from pykcm.control.messages import ControlError, ErrorCode

# So many items may wait for one client.
MOST_WAITING = 10_000


class EventQueue:
    """Items for one client. When too many wait, no more are taken in until it has them all.

    Instead of what was lost there comes `{"lost": number}`.
    """

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._waiting: deque[dict[str, Any]] = deque()
        self._lost = 0
        self._arrived = asyncio.Event()
        self._has_failed = False

    def put(self, make: Callable[[], dict[str, Any]]) -> None:
        """Take in the item that `make` gives; it is not made where it would be lost."""
        if self._lost or len(self._waiting) >= self._most:
            self._lost += 1
            return
        self._waiting.append(make())
        self._arrived.set()

    def fail(self) -> None:
        """No more items will come, by an error in pykcm."""
        self._has_failed = True
        self._arrived.set()

    async def next(self) -> dict[str, Any]:
        """The next item, when there is one; raises ControlError when no more will come."""
        while not self._waiting and not self._lost:
            if self._has_failed:
                raise ControlError(ErrorCode.INTERNAL, "an error in pykcm; its log says more")
            self._arrived.clear()
            await self._arrived.wait()
        if self._waiting:
            return self._waiting.popleft()
        lost, self._lost = self._lost, 0
        return {"lost": lost}
