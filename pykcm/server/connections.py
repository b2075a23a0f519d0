"""All connections together: how many there may be, whether there are any, and how they end in order."""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from pykcm.logs import LimitedLog

log = logging.getLogger(__name__)

# Lines that users cause.
_EVICTIONS = LimitedLog(log, "connections that made room", 1)
_REFUSALS = LimitedLog(log, "connections refused at a limit", 1)

# Processes remembered as having connected, at most: a preference rests on them, nothing else.
_REMEMBERED_PROCESSES = 4096


class Limits(NamedTuple):
    """What one UID, and all together, may take up; 0: no limit.

    `uid_bytes` are those of requests that wait, `uid_unread` those of replies that were not taken.
    """

    connections: int = 0
    uid_connections: int = 0
    uid_bytes: int = 0
    uid_unread: int = 0


NO_LIMITS = Limits()


class Member(Protocol):
    """What is asked of a connection."""

    uid: int
    pid: int

    @property
    def is_mits(self) -> bool:
        """Whether its requests have shown MIT's client."""

    @property
    def idle_since(self) -> float | None:
        """When its last request came; None while one is under way. Comparable with that of others."""

    @property
    def has_unread(self) -> bool:
        """Whether there is more of it that it has not been told of."""

    def give_way(self) -> None:
        """Answer what the client has sent all the same, then close."""

    def finish(self) -> None:
        """Answer what has begun, then close."""

    def abort(self) -> None:
        """Close at once."""


class Connections:
    """The open connections. `idle_timeout` seconds without any, `on_idle` is called (0: never)."""

    def __init__(self, idle_timeout: float, on_idle: Callable[[], None], limits: Limits = NO_LIMITS) -> None:
        self._idle_timeout = idle_timeout
        self._on_idle = on_idle
        self._limits = limits
        self._open: dict[int, set[Member]] = {}
        self._processes = _Processes()
        self._count = 0
        self._bytes: dict[int, int] = {}
        self._unread: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._others = 0  # connections elsewhere that keep the daemon from being idle
        self._is_ending = False
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        # Those counted in, those that gave way to others, those for which there was no room, those whose
        # peer cannot be known, and those that broke a limit, by which.
        self.accepted = 0
        self.evicted = 0
        self.refused = 0
        self.unidentified = 0
        self.broken_off: Counter[str] = Counter()

    @property
    def open(self) -> int:
        return self._count

    @property
    def held(self) -> int:
        """Bytes of requests that wait or are incomplete."""
        return sum(self._bytes.values())

    @property
    def owed(self) -> int:
        """Bytes of replies that were not taken yet."""
        return sum(self._unread.values())

    @property
    def are_idle(self) -> bool:
        """Whether there are none."""
        return not self._count and not self._others

    def add(self, connection: Member) -> bool:
        """Count the connection in; False where there is no room for it, and it is to be closed."""
        if not self._has_room(connection.uid):
            self.refused += 1
            return False
        self.accepted += 1
        self._open.setdefault(connection.uid, set()).add(connection)
        self._processes.count(connection)
        self._count += 1
        if self._count == 1:
            self._all_closed.clear()
            self._stop_timer()
        if self._is_ending:
            # Accepted before the listening socket was closed, and told only now.
            connection.finish()
        return True

    def discard(self, connection: Member) -> None:
        """Count the connection out, if it has been counted in."""
        own = self._open.get(connection.uid)
        if own is None or connection not in own:
            return
        own.remove(connection)
        if not own:
            del self._open[connection.uid]
        self._count -= 1
        if not self._count:
            self._all_closed.set()
            if not self._is_ending:
                self.start_timer()

    # How many there may be

    def _has_room(self, uid: int) -> bool:
        limits = self._limits
        if limits.uid_connections and len(self._open.get(uid, ())) >= limits.uid_connections:
            return self._make_room(uid, [uid], f"max_uid_connections ({limits.uid_connections})")
        if limits.connections and self._count >= limits.connections:
            # Whoever has the most gives way first, so that nobody is kept out by another one's many.
            by_number = sorted(self._open, key=lambda each: len(self._open[each]), reverse=True)
            return self._make_room(uid, by_number, f"max_connections ({limits.connections})")
        return True

    def _make_room(self, asking: int, giving: Iterable[int], limit: str) -> bool:
        """Close an idle connection of the first UID that has one; False where none has."""
        for uid in giving:
            chosen = self._choose_idle(uid)
            if chosen is not None:
                _EVICTIONS.write(
                    logging.WARNING,
                    asking,
                    "UID %d: %s reached: an idle connection of UID %d (process %d) was closed",
                    asking,
                    limit,
                    uid,
                    chosen.pid,
                    fields={"KCM_UID": asking},
                )
                chosen.give_way()
                self.discard(chosen)
                self.evicted += 1
                return True
        _REFUSALS.write(
            logging.WARNING,
            asking,
            "UID %d: connection refused: %s reached, and each has a request under way",
            asking,
            limit,
            fields={"KCM_UID": asking},
        )
        return False

    def _choose_idle(self, uid: int) -> Member | None:
        """The UID's longest idle connection, first among those whose client will connect again.

        MIT's client does. Heimdal's does not, and SIGPIPE ends its process at the next request.
        """
        idle = [
            (not self._connects_again(connection), since, connection)
            for connection in self._open[uid]
            if (since := connection.idle_since) is not None
        ]
        for _, _, connection in sorted(idle, key=lambda each: each[:2]):
            if not connection.has_unread:
                return connection
        return None

    def _connects_again(self, connection: Member) -> bool:
        return connection.is_mits or self._processes.has_connected_again(connection)

    def hold(self, uid: int, more: int) -> bool:
        """Count bytes of requests that wait or are incomplete; False where the UID has too many."""
        return _add(self._bytes, uid, more, self._limits.uid_bytes)

    def owe(self, uid: int, more: int) -> bool:
        """Count bytes of replies that were not taken yet; False where the UID has too many."""
        return _add(self._unread, uid, more, self._limits.uid_unread)

    # Whether there are any

    def stay_awake(self) -> None:
        """There is a connection that is none of these, and counts as one."""
        self._others += 1
        self._stop_timer()

    def may_sleep(self) -> None:
        """It has gone."""
        self._others -= 1
        if not self._count and not self._is_ending:
            self.start_timer()

    def start_timer(self) -> None:
        """Begin to count the idle time; a connection stops it."""
        self._stop_timer()
        if self._idle_timeout and not self._others:
            self._timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._on_idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # How they end

    async def finish(self, patience: float) -> int:
        """End all in order; those that take longer than `patience` seconds are cut off, and counted."""
        self._is_ending = True
        self._stop_timer()
        for connection in self._all():
            connection.finish()
        try:
            async with asyncio.timeout(patience):
                await self._all_closed.wait()
        except TimeoutError:
            pass
        late = self._all()
        for connection in late:
            connection.abort()
        return len(late)

    def _all(self) -> list[Member]:
        return [connection for own in self._open.values() for connection in own]


class _Processes:
    """Which processes have connected more than once: a process of Heimdal's client connects once."""

    def __init__(self) -> None:
        # By UID and PID, the one that connected last at the end: the kernel gives out a PID again.
        self._have_connected_again: OrderedDict[tuple[int, int], bool] = OrderedDict()

    def count(self, connection: Member) -> None:
        """The process has connected once more."""
        # A process in another PID namespace is not known.
        if not connection.pid:
            return
        process = connection.uid, connection.pid
        known = self._have_connected_again
        known[process] = process in known
        known.move_to_end(process)
        if len(known) > _REMEMBERED_PROCESSES:
            known.popitem(last=False)

    def has_connected_again(self, connection: Member) -> bool:
        return self._have_connected_again.get((connection.uid, connection.pid), False)


def _add(by_uid: dict[int, int], uid: int, more: int, limit: int) -> bool:
    total = by_uid.get(uid, 0) + more
    if total:
        by_uid[uid] = total
    else:
        by_uid.pop(uid, None)
    return not limit or total <= limit
