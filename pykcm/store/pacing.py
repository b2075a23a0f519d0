"""Commits of the UIDs that write most wait for a copy of the database, so that it comes to its end."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from pykcm.store.tree import SecretChange, uid_of_container

log = logging.getLogger(__name__)

# A UID that has written less since the copy began never waits, in bytes: some dozens of logins.
_FREE = 1024 * 1024

# In seconds: then a commit goes on, however far the copy is.
_LONGEST_WAIT = 30.0

_MIB = 1024 * 1024


class WritePacer:
    """Decides which commits wait while the database at `path` is copied.

    `is_pressed`: whether so much was written meanwhile that those who write most should wait. `slowed` has
    the UIDs that had to wait, the first one first.
    """

    def __init__(self, path: Path, is_pressed: Callable[[], bool]) -> None:
        self.is_pressed = is_pressed
        self.slowed: dict[int, None] = {}
        self._path = path
        self._written: Counter[int] = Counter()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def charge(self, uid: int, size: int) -> None:
        """The UID has written so many bytes more."""
        self._written[uid] += size

    def most(self) -> tuple[int, int] | None:
        """The UID that has written most, and its bytes."""
        return next(iter(self._written.most_common(1)), None)

    def delay(self, changes: Sequence[SecretChange]) -> "asyncio.Future[None] | None":
        """What a commit of these changes has to wait for first; None: it need not wait."""
        uid = uid_of_container(changes[0].container) if changes else None
        if uid is None or self._written[uid] <= _FREE or not self.is_pressed():
            return None
        if any(uid_of_container(change.container) != uid for change in changes):
            # Of another UID as well, which has perhaps written nothing: only root's are.
            return None
        if uid not in self.slowed:
            self.slowed[uid] = None
            log.warning(
                "%s: UID %d writes much while it is copied (%d MiB so far): its changes wait for the copy, "
                "up to %g s each, and those of others do not",
                *(self._path, uid, self._written[uid] // _MIB, _LONGEST_WAIT),
                extra={"KCM_UID": uid},
            )
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        timer = loop.call_later(_LONGEST_WAIT, _let_go, turn)
        turn.add_done_callback(lambda _: timer.cancel())
        self._waiting.append(turn)
        return turn

    def look(self) -> None:
        """Let the next one go on, if there is room again: what it writes is seen before the one after it."""
        while self._waiting and (self._waiting[0].done() or not self.is_pressed()):
            if _let_go(self._waiting.popleft()):
                return

    def end(self) -> None:
        """The copy has come to its end: nobody waits for it any more."""
        while self._waiting:
            _let_go(self._waiting.popleft())


def _let_go(turn: "asyncio.Future[None]") -> bool:
    if turn.done():
        return False
    turn.set_result(None)
    return True
