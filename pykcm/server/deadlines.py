"""What has begun must be complete in time: one timer for all, and none where nothing has begun."""

import asyncio
from typing import Protocol


class Late(Protocol):
    """What may be late."""

    def give_up(self) -> None:
        """The time is over."""


class Deadlines:
    """Those who have begun something, in the order in which they began; each has `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._due: dict[Late, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, late: Late) -> None:
        """Give up on it in `patience` seconds; who has begun already is not given more."""
        loop = asyncio.get_running_loop()
        self._due.setdefault(late, loop.time() + self.patience)
        if self._timer is None:
            self._timer = loop.call_later(self.patience, self._look)

    def end(self, late: Late) -> None:
        """It is complete, or gone."""
        self._due.pop(late, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._due:
            late, due = next(iter(self._due.items()))
            if due > loop.time():
                self._timer = loop.call_at(due, self._look)
                break
            del self._due[late]
            late.give_up()
