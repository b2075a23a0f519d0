"""All connections together: limits on their number and memory, idle time, and an orderly end."""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from pykcm.logs import LimitedLog, User
from pykcm.peer.identity import ROOT
from pykcm.server.connection import State

log = logging.getLogger(__name__)

# Lines that users cause.
_EVICTIONS = LimitedLog(log, "connections that made room", 1)
_REFUSALS = LimitedLog(log, "connections refused at a limit", 1)

_STATE_NAMES = {
    State.IDLE: "an idle",
    State.RECEIVING: "an incomplete request's",
    State.SENDING: "an untaken reply's",
    State.REQUESTED: "a waiting request's",
    State.SERVING: "a running request's",
}

# More processes are not remembered. Only the choice between idle connections depends on them.
_REMEMBERED_PROCESSES = 4096


class Limits(msgspec.Struct, frozen=True):
    """Limits for each UID and for all together; 0: no limit.

    `bytes` and `uid_bytes`: of requests that wait or are incomplete. `unread` and `uid_unread`: bytes of
    replies that clients have not taken. `for_root`: connections that root may have beyond `connections`.
    """

    connections: int = 0
    uid_connections: int = 0
    for_root: int = 0
    bytes: int = 0
    uid_bytes: int = 0
    unread: int = 0
    uid_unread: int = 0


NO_LIMITS = Limits()


class Member(Protocol):
    """A connection, as far as these limits need it."""

    uid: int
    pid: int

    @property
    def is_mits(self) -> bool:
        """Whether its requests are known to come from MIT's client."""

    @property
    def state(self) -> State:
        """The step that is next on it."""

    @property
    def last_heard(self) -> float:
        """When its last request came; comparable between connections."""

    @property
    def has_unread(self) -> bool:
        """Whether unread data is pending."""

    @property
    def request_memory(self) -> int:
        """Bytes of memory that its requests take."""

    @property
    def reply_memory(self) -> int:
        """Bytes of memory that its untaken replies take."""

    def give_way(self) -> None:
        """Close; an idle connection first answers what the client has sent meanwhile."""

    def finish(self) -> None:
        """Answer requests that the client has sent, then close."""

    def break_off(self, limit: str, reason: str) -> None:
        """Close at once, because a limit was exceeded."""

    def abort(self) -> None:
        """Close at once."""


class BytesByUid:
    """Bytes of memory that clients make the daemon hold, by UID and in total. A limit of 0 is none."""

    def __init__(self, uid_limit: int, limit: int) -> None:
        self._uid_limit = uid_limit
        self._limit = limit
        self._by_uid: dict[int, int] = {}
        self.total = 0

    def of(self, uid: int) -> int:
        """The bytes of a UID."""
        return self._by_uid.get(uid, 0)

    def add(self, uid: int, more: int) -> int | None:
        """Add bytes to the UID's; `more` may be negative.

        Returns that UID or the largest one if a limit is exceeded now, else None.
        """
        self.total += more
        size = self._by_uid.get(uid, 0) + more
        if size:
            self._by_uid[uid] = size
        else:
            self._by_uid.pop(uid, None)
        if more <= 0:
            return None
        if self._uid_limit and size > self._uid_limit:
            return uid
        if self._limit and self.total > self._limit:
            return max(self._by_uid, key=self._by_uid.__getitem__)
        return None


class Connections:
    """The open connections. After `idle_timeout` seconds without any, `on_idle` is called (0: never)."""

    def __init__(self, idle_timeout: float, on_idle: Callable[[], None], limits: Limits = NO_LIMITS) -> None:
        self._idle_timeout = idle_timeout
        self._on_idle = on_idle
        self._limits = limits
        self._open: dict[int, set[Member]] = {}
        self._processes = _Processes()
        self._count = 0
        self.requests = BytesByUid(limits.uid_bytes, limits.bytes)
        self.replies = BytesByUid(limits.uid_unread, limits.unread)
        self._timer: asyncio.TimerHandle | None = None
        self._control_connections = 0  # those that keep the daemon from being idle
        self._is_ending = False
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        # Numbers of connections: accepted, closed to make room, refused at a limit, refused because the peer
        # cannot be identified, and closed because they exceeded a limit (by limit).
        self.accepted = 0
        self.evicted = 0
        self.refused = 0
        self.unidentified = 0
        self.broken_off: Counter[str] = Counter()

    @property
    def open(self) -> int:
        return self._count

    @property
    def request_memory(self) -> int:
        """Bytes of requests that wait or are incomplete."""
        return self.requests.total

    @property
    def reply_memory(self) -> int:
        """Bytes of replies that clients have not taken yet."""
        return self.replies.total

    @property
    def are_idle(self) -> bool:
        """Whether there are no connections."""
        return not self._count and not self._control_connections

    def add(self, connection: Member) -> None:
        """Add a connection; there has to be room for it."""
        self.accepted += 1
        of_uid = self._open.get(connection.uid)
        if of_uid is None:
            of_uid = self._open[connection.uid] = set()
        of_uid.add(connection)
        self._processes.count(connection)
        self._count += 1
        if self._count == 1:
            self._all_closed.clear()
            self._stop_timer()
        if self._is_ending:
            # It was accepted before the listening socket was closed.
            connection.finish()

    def discard(self, connection: Member) -> None:
        """Remove a connection, if it is here."""
        of_uid = self._open.get(connection.uid)
        if of_uid is None or connection not in of_uid:
            return
        of_uid.remove(connection)
        if not of_uid:
            del self._open[connection.uid]
        self._count -= 1
        if not self._count:
            self._all_closed.set()
            if not self._is_ending:
                self.start_timer()

    # Limits on their number

    def has_room(self, uid: int) -> bool:
        """Whether the UID may have one more connection. Another connection may be closed for it."""
        limits = self._limits
        count = len(self._open.get(uid, ()))
        if limits.uid_connections and count >= limits.uid_connections:
            room = self._choose_idle(uid)
            name = f"max_uid_connections ({limits.uid_connections})"
        elif limits.connections and self._count >= limits.connections:
            if uid == ROOT and self._count < limits.connections + limits.for_root:
                return True
            room = self._choose_of_all(uid, count)
            name = f"max_connections ({limits.connections})"
        else:
            return True
        if room is None:
            _REFUSALS.write(
                logging.WARNING,
                uid,
                "%s: connection refused: %s reached, and each has a request in progress",
                User(uid),
                name,
                fields={"KCM_UID": uid},
            )
            self.refused += 1
            return False
        _EVICTIONS.write(
            logging.WARNING,
            uid,
            "%s: %s reached: %s connection of %s (process %d) was closed",
            User(uid),
            name,
            _STATE_NAMES[room.state],
            User(room.uid),
            room.pid,
            fields={"KCM_UID": uid},
        )
        self.evicted += 1
        room.give_way()
        self.discard(room)
        return True

    def _choose_of_all(self, asking: int, count: int) -> Member | None:
        """Choose the connection to close for the UID `asking`, which has `count`; None if there is none.

        It belongs to the UID with the most connections; a UID with fewer than `asking` loses none. An idle
        connection is chosen first. If none is idle, even a request in progress is given up for a UID with
        fewer connections: endless requests keep nobody out.
        """
        for uid in self._uids_by_number():
            number = len(self._open[uid])
            if number <= count:
                break
            chosen = self._choose_idle(uid)
            if chosen is None and number > count + 1:
                chosen = min(self._open[uid], key=_loss)
            if chosen is not None:
                return chosen
        return self._choose_idle(asking) if count else None

    def _uids_by_number(self) -> Iterator[int]:
        """UIDs, the one with the most connections first. Usually only the first one is used."""
        most = max(self._open, key=lambda each: len(self._open[each]))
        yield most
        for uid in sorted(self._open, key=lambda each: len(self._open[each]), reverse=True):
            if uid != most:
                yield uid

    def _choose_idle(self, uid: int) -> Member | None:
        """Choose the UID's longest idle connection, preferably of a client that connects again.

        MIT's client does. Heimdal's does not: SIGPIPE ends its process at the next request.
        """
        idle = [connection for connection in self._open[uid] if connection.state is State.IDLE]
        idle.sort(key=lambda each: (not self._connects_again(each), each.last_heard))
        return next((connection for connection in idle if not connection.has_unread), None)

    def _connects_again(self, connection: Member) -> bool:
        return connection.is_mits or self._processes.has_connected_again(connection)

    # Limits on memory

    def count_request_memory(self, connection: Member, more: int) -> Member | None:
        """Count bytes of its requests; return the connection to break off if a limit is exceeded.

        It is this connection if its UID has too many bytes, otherwise the largest of the UID with the most.
        """
        return self._change(self.requests, connection, more, lambda each: each.request_memory)

    def count_reply_memory(self, connection: Member, more: int) -> Member | None:
        """Count bytes of replies that the client has not taken; return as `count_request_memory`."""
        return self._change(self.replies, connection, more, lambda each: each.reply_memory)

    def _change(
        self, memory: BytesByUid, connection: Member, more: int, size: Callable[[Member], int]
    ) -> Member | None:
        uid = memory.add(connection.uid, more)
        if uid is None or uid == connection.uid:
            return None if uid is None else connection
        # A request in progress keeps its memory even if its connection is closed.
        others = [each for each in self._open.get(uid, ()) if each.state is not State.SERVING]
        return max(others, key=size, default=connection)

    # Idle time

    def add_control_connection(self) -> None:
        """Count a connection of the control socket, which keeps the daemon from being idle."""
        self._control_connections += 1
        self._stop_timer()

    def remove_control_connection(self) -> None:
        """Note that a connection of the control socket has closed."""
        self._control_connections -= 1
        if not self._count and not self._is_ending:
            self.start_timer()

    def start_timer(self) -> None:
        """Start the idle time; a new connection stops it."""
        self._stop_timer()
        if self._idle_timeout and not self._control_connections:
            self._timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._on_idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The end

    async def finish(self, patience: float) -> int:
        """End all connections in order; return how many were cut off after `patience` seconds."""
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
        return [connection for of_uid in self._open.values() for connection in of_uid]


class _Processes:
    """Notices processes that connect more than once. A process of Heimdal's client connects only once."""

    def __init__(self) -> None:
        # By UID and PID, in the order of their last connection: the kernel reuses PIDs.
        self._have_connected_again: OrderedDict[tuple[int, int], bool] = OrderedDict()

    def count(self, connection: Member) -> None:
        """Count one more connection of the process."""
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


# The order in which connections are closed for others: the least loss first.
_BY_LOSS = (State.IDLE, State.RECEIVING, State.SENDING, State.REQUESTED, State.SERVING)


def _loss(connection: Member) -> tuple[int, float]:
    return _BY_LOSS.index(connection.state), connection.last_heard
