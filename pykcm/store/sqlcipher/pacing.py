"""Commits of the UIDs that write most wait for a copy of the database, so that it comes to its end."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pykcm.store.tree import Put, SecretChange, uid_of_container

log = logging.getLogger(__name__)

# A UID that has written less since the copy began never waits, in bytes: some dozens of logins.
_FREE = 1024 * 1024

# In seconds: then a commit goes on, however far the copy is.
_LONGEST_WAIT = 30.0

# The number of waiting commits that are looked at when there may be room again.
_LOOKED_AT = 16

_MIB = 1024 * 1024

# The memory that a change takes besides its value, in bytes.
_CHANGE = 500


def weight_of(change: SecretChange) -> int:
    """Bytes that a change takes in memory, about."""
    return _CHANGE + (len(change.value) if isinstance(change, Put) else 0)


class _Waiting(NamedTuple):
    turn: "asyncio.Future[None]"
    uid: int
    size: int


class WritePacer:
    """Decides which commits wait while the database at `path` is copied.

    `room`: how much may be written, divided by how much will be with so many bytes more. Below 1, those wait
    who have written most: what may be written is shared evenly, and a UID that has written less than its
    share never waits. `slowed` has the UIDs that had to wait, the first one first.
    """

    def __init__(self, path: Path, room: Callable[[int], float], cost: int = 1) -> None:
        self.room = room
        # The weight of each byte of a change.
        self.cost = cost
        self.slowed: dict[int, None] = {}
        self._path = path
        self._written: Counter[int] = Counter()
        # Of each UID's last commit, until it is made: its size, and the size of it if it was let go on.
        self._announced: dict[int, int] = {}
        self._in_flight: dict[int, int] = {}
        self._waiting: deque[_Waiting] = deque()

    def charge(self, uid: int, size: int) -> None:
        """The UID has written so many bytes more."""
        self._written[uid] += size
        self._in_flight.pop(uid, None)

    def most(self) -> tuple[int, int] | None:
        """The UID that has written most, and its bytes."""
        return next(iter(self._written.most_common(1)), None)

    def announced(self, uid: int) -> int:
        """The bytes that the UID's commit was announced to write and delete, or 0; forgets them."""
        return self._announced.pop(uid, 0)

    def delay(self, changes: Sequence[SecretChange], size: int) -> "asyncio.Future[None] | None":
        """The wait before a commit of these changes; None: it need not wait.

        `size`: bytes that they write and delete, about. Deletes are written over, too.
        """
        uid = uid_of_container(changes[0].container) if changes else None
        if uid is None:
            return None
        self._announced[uid] = size
        size = max(size, self.cost * sum(map(weight_of, changes)))
        if self._written[uid] + size <= _FREE:
            return None
        if any(uid_of_container(change.container) != uid for change in changes):
            # Of another UID as well, which has perhaps written nothing: only root's are.
            return None
        if self._admits(uid, size):
            return None
        self._name(uid)
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        timer = loop.call_later(_LONGEST_WAIT, _let_go, turn)
        turn.add_done_callback(lambda _: timer.cancel())
        self._waiting.append(_Waiting(turn, uid, size))
        return turn

    def look(self) -> None:
        """Let those go on for whom there is room again, in their order."""
        for each in list(islice(self._waiting, _LOOKED_AT)):
            if each.turn.done() or self._admits(each.uid, each.size):
                self._waiting.remove(each)
                _let_go(each.turn)

    def end(self) -> None:
        """The copy has come to its end: nobody waits for it any more."""
        while self._waiting:
            _let_go(self._waiting.popleft().turn)

    def _admits(self, uid: int, size: int) -> bool:
        more = Counter(self._in_flight)
        more[uid] += size
        room = self.room(more.total())
        if room < 1:
            amounts = self._written + more
            if amounts[uid] > _share(sorted(amounts.values()), room * amounts.total()):
                return False
        self._in_flight[uid] = size
        return True

    def _name(self, uid: int) -> None:
        if uid in self.slowed:
            return
        self.slowed[uid] = None
        log.warning(
            "%s: UID %d writes much while it is copied (%d MiB so far): its changes wait for the copy, "
            "up to %g s each, and those of others do not",
            *(self._path, uid, self._written[uid] // _MIB, _LONGEST_WAIT),
            extra={"KCM_UID": uid},
        )


def _let_go(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)


def _share(amounts: Sequence[int], room: float) -> float:
    """The share of each, so that all of these amounts, which ascend, are together no more than `room`."""
    for number, amount in zip(range(len(amounts), 0, -1), amounts, strict=True):
        if amount * number >= room:
            return room / number
        room -= amount
    return room
