"""Queues by UID: requests of one UID run one after another, requests of different UIDs run concurrently."""

import asyncio
from collections import deque


class UidQueues:
    """A queue for each UID. One caller at a time has entered it, the others wait in their order."""

    def __init__(self) -> None:
        # A queue is occupied while its UID is here. The deque has the waiting callers.
        self._queues: dict[int, deque[asyncio.Future[None]]] = {}

    def is_free(self, uid: int) -> bool:
        return uid not in self._queues

    @property
    def occupied(self) -> int:
        return len(self._queues)

    @property
    def waiting(self) -> int:
        """The number of waiting callers."""
        return sum(map(len, self._queues.values()))

    def enter_if_free(self, uid: int) -> bool:
        """Enter the queue if it is free; returns whether it was entered."""
        if uid in self._queues:
            return False
        self._queues[uid] = deque()
        return True

    async def enter(self, uid: int) -> None:
        """Enter the queue after all earlier callers."""
        if self.enter_if_free(uid):
            return
        queue = self._queues[uid]
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave(uid)  # the queue was handed over in the same moment
            raise

    def leave(self, uid: int) -> None:
        queue = self._queues[uid]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)  # the queue is handed over, not freed
                return
        del self._queues[uid]
