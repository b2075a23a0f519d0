"""Whether the database can be reached: noticed by the calls, and tried again and again while it cannot."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import Any

log = logging.getLogger(__name__)

# In seconds: the first pause between two attempts, which doubles, and the longest. Half of a pause is random:
# hosts that lost the database together do not come back together.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Presence:
    """`probe` connects once; it raises OSError with a message for people where it cannot."""

    def __init__(self, name: str, probe: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._probe = probe
        self._last_seen = monotonic()
        self._away_since: float | None = None
        self._is_back = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None
        self._is_closed = False
        self.reason = ""
        self.absences = 0

    @property
    def is_away(self) -> bool:
        return self._away_since is not None

    def seconds_unseen(self) -> float:
        """Since the database last answered; 0 while it is not known to be away."""
        return monotonic() - self._last_seen if self.is_away else 0.0

    def statistics(self) -> dict[str, Any]:
        """Times are in seconds since the epoch."""
        since_the_epoch = time() - monotonic()
        return {
            "away_since": None if self._away_since is None else since_the_epoch + self._away_since,
            "last_seen": since_the_epoch + self._last_seen,
            "reason": self.reason if self.is_away else "",
            "absences": self.absences,
        }

    def seen(self) -> None:
        """The database has answered."""
        self._last_seen = monotonic()

    def lost(self, reason: str, since: float | None = None) -> None:
        """No connection can be made, or no answer comes; `since`: monotonic time of the question.

        An answer to a later question shows that the database is there, and only this one had to wait.
        """
        if self._is_closed or (since is not None and self._last_seen > since):
            return
        self.reason = reason
        if self._away_since is None:
            self._away_since = monotonic() if since is None else since
            self.absences += 1
            self._is_back.clear()
            log.error("%s: the database is away: %s; it is tried again until it is back", self._name, reason)
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_back())

    def patience(self, most: float) -> float:
        """Seconds left to wait for a database that is waited for so many seconds of its absence."""
        return most if self._away_since is None else self._away_since + most - monotonic()

    async def wait(self, most: float) -> bool:
        """Whether the database is there, now or within so many seconds."""
        if self._away_since is None:
            return True
        if most <= 0:
            return False
        try:
            async with asyncio.timeout(most):
                await self._is_back.wait()
        except TimeoutError:
            return False
        return True

    async def _probe_until_back(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                await self._probe()
            except OSError as error:
                self.reason = str(error)
                continue
            break
        assert self._away_since is not None
        log.warning("%s: the database is back after %.1f s", self._name, monotonic() - self._away_since)
        self._away_since = None
        self.seen()
        self._is_back.set()

    def close(self) -> None:
        """Try no more to reach the database."""
        self._is_closed = True
        if self._probing is not None:
            self._probing.cancel()
