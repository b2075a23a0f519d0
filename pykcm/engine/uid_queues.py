"""One operation at a time for each UID, UIDs beside each other."""

import asyncio
from collections import deque


class UidQueues:
    """A lane for each UID: whoever has entered it is alone there until leaving; the others wait in order."""

    def __init__(self) -> None:
        # A lane is occupied while its UID is here.
        self._queues: dict[int, deque[asyncio.Future[None]]] = {}

    def is_free(self, uid: int) -> bool:
        return uid not in self._queues

    @property
    def occupied(self) -> int:
        return len(self._queues)

    @property
    def waiting(self) -> int:
        """How many wait for their lane."""
        return sum(map(len, self._queues.values()))

    def enter_if_free(self, uid: int) -> bool:
        """Enter the lane where nobody has to be waited for; tells whether it was entered."""
        if uid in self._queues:
            return False
        self._queues[uid] = deque()
        return True

    async def enter(self, uid: int) -> None:
        """Enter the lane, after all who came before."""
        if self.enter_if_free(uid):
            return
        queue = self._queues[uid]
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave(uid)  # it was handed over in the same moment
            raise

    def leave(self, uid: int) -> None:
        queue = self._queues[uid]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)  # the lane is handed over, not freed
                return
        del self._queues[uid]
