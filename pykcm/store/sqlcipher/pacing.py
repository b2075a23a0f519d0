"""Pacing of writers: commits of the UIDs that write most wait during a copy, so that it comes to its end."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from pykcm.logs import User
from pykcm.store.tree import Put, SecretChange, uid_of_container

log = logging.getLogger(__name__)

# In bytes, some dozens of logins: a UID that has written less since the copy began never waits.
_FREE = 1024 * 1024

# Seconds after which a commit goes on, however far the copy is.
_LONGEST_WAIT = 30.0

# The number of waiting commits that one `look` considers.
_LOOKED_AT = 16

_MIB = 1024 * 1024

# Bytes of memory that a change takes up in addition to its value.
_CHANGE = 500


def weight_of(change: SecretChange) -> int:
    """Return about how many bytes of memory a change takes up."""
    return _CHANGE + (len(change.value) if isinstance(change, Put) else 0)


class _Waiting(msgspec.Struct, frozen=True):
    future: "asyncio.Future[None]"
    uid: int
    size: int


class WritePacer:
    """Decides which commits wait during a copy of the database at `path`.

    `room(more)`: the ratio of the bytes that may be written to those that will be written after `more` bytes.
    Below 1, the UIDs share the allowed bytes evenly. A UID waits if it has written more than its share.
    `slowed`: the UIDs that have waited, in order. `cost`: the weight of each byte of a change.
    """

    def __init__(self, path: Path, room: Callable[[int], float], cost: int = 1) -> None:
        self.room = room
        self.cost = cost
        self.slowed: dict[int, None] = {}
        self._path = path
        self._written: Counter[int] = Counter()
        # The size of each UID's last unfinished commit: as announced, and as admitted.
        self._announced: dict[int, int] = {}
        self._in_flight: dict[int, int] = {}
        self._waiting: deque[_Waiting] = deque()

    def charge(self, uid: int, size: int) -> None:
        """Count bytes that the UID has written."""
        self._written[uid] += size
        self._in_flight.pop(uid, None)

    def most(self) -> tuple[int, int] | None:
        """Return the UID that has written most, and how many bytes."""
        return next(iter(self._written.most_common(1)), None)

    def announced(self, uid: int) -> int:
        """Return and forget how many bytes the UID's commit was going to write and delete; 0: unknown."""
        return self._announced.pop(uid, 0)

    def delay(self, changes: Sequence[SecretChange], size: int) -> "asyncio.Future[None] | None":
        """Return the wait before a commit of these changes; None: there is no wait.

        `size`: about how many bytes they write and delete. Deleted bytes are overwritten, so they count too.
        """
        uid = uid_of_container(changes[0].container) if changes else None
        if uid is None:
            return None
        self._announced[uid] = size
        size = max(size, self.cost * sum(map(weight_of, changes)))
        if self._written[uid] + size <= _FREE:
            return None
        if any(uid_of_container(change.container) != uid for change in changes):
            # Only root's changes concern several UIDs, some of which perhaps have written nothing.
            return None
        if self._admits(uid, size):
            return None
        self._report(uid)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = loop.call_later(_LONGEST_WAIT, _let_go, future)
        future.add_done_callback(lambda _: timer.cancel())
        self._waiting.append(_Waiting(future, uid, size))
        return future

    def look(self) -> None:
        """Let waiting commits go on for which there is room again, in order."""
        for each in list(islice(self._waiting, _LOOKED_AT)):
            if each.future.done() or self._admits(each.uid, each.size):
                self._waiting.remove(each)
                _let_go(each.future)

    def end(self) -> None:
        """Let all waiting commits go on: the copy has come to its end."""
        while self._waiting:
            _let_go(self._waiting.popleft().future)

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

    def _report(self, uid: int) -> None:
        if uid in self.slowed:
            return
        self.slowed[uid] = None
        log.warning(
            "%s: %s writes much while the database is copied (%d MiB so far): its changes wait for the "
            "copy, up to %g s each, and those of others do not",
            *(self._path, User(uid), self._written[uid] // _MIB, _LONGEST_WAIT),
            extra={"KCM_UID": uid},
        )


def _let_go(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _share(amounts: Sequence[int], room: float) -> float:
    """Return the limit for each of these ascending amounts, with which their sum is at most `room`."""
    for number, amount in zip(range(len(amounts), 0, -1), amounts, strict=True):
        if amount * number >= room:
            return room / number
        room -= amount
    return room
