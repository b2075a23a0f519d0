"""A bounded queue of items for a client that reads slowly. It counts the lost items."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from pykcm.control.messages import ControlError, ErrorCode

# The most items that wait for one client, and their most bytes.
MOST_WAITING = 10_000
_MOST_BYTES = 2 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()


class EventQueue:
    """Items for one client, encoded as they are sent.

    When too many wait, further ones are lost until the client has them all. `{"lost": number}` stands in the
    place of the lost ones.
    """

    def __init__(self, most: int = MOST_WAITING, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        # Encoded, an item takes a tenth of the memory.
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._arrived = asyncio.Event()
        self._has_failed = False

    def put(self, make: Callable[[], dict[str, Any]]) -> None:
        """Add the item that `make` returns; it is not made if it would be lost."""
        if self._lost or len(self._waiting) >= self._most or self._bytes >= self._most_bytes:
            self._lost += 1
            return
        packed = _encoder.encode(make())
        self._bytes += len(packed)
        self._waiting.append(packed)
        self._arrived.set()

    def fail(self) -> None:
        """End the queue because of an error in pykcm."""
        self._has_failed = True
        self._arrived.set()

    async def next(self) -> msgspec.Raw | dict[str, Any]:
        """Wait for the next item; raises ControlError when no more will come."""
        while not self._waiting and not self._lost:
            if self._has_failed:
                raise ControlError(ErrorCode.INTERNAL, "an error in pykcm; its log says more")
            self._arrived.clear()
            await self._arrived.wait()
        if self._waiting:
            packed = self._waiting.popleft()
            self._bytes -= len(packed)
            return msgspec.Raw(packed)
        lost, self._lost = self._lost, 0
        return {"lost": lost}
