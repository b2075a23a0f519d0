"""One client's socket: reads, serves and sends, each in its UID's turn.

The event loop reports that there is something to do. The fair queue decides when: at once if nobody waits,
otherwise in the UID's turn. One turn reads once, serves at most one request, and sends once.
"""

import logging
import select
import socket
from fcntl import ioctl
from struct import Struct
from termios import FIONREAD
from typing import TYPE_CHECKING

import msgspec

from pykcm.engine.stepping import step
from pykcm.logs import LimitedLog, User
from pykcm.peer.identity import Peer
from pykcm.protocol.framing import Frame, FramingError, Pieces, Sendable
from pykcm.protocol.messages import MITS_OPCODES, shows_mits_client
from pykcm.server.connection import Connection, State
from pykcm.server.outbox import Outbox

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from pykcm.server.connections import Connections
    from pykcm.server.deadlines import Deadlines
    from pykcm.server.dispatcher import Dispatcher
    from pykcm.server.fair_queue import FairQueue

log = logging.getLogger(__name__)

# Lines that users cause.
_BROKEN_OFF = LimitedLog(log, "connections closed at a limit", 30)

# In bytes: read in one turn. Nearly every request is smaller; of a larger one all that has come is read.
_READ_SIZE = 16 * 1024
_LARGEST_READ = 256 * 1024

# In bytes: while a UID has this much of waiting and incomplete requests, its connections are read in small
# pieces.
_ENOUGH = 1024 * 1024
_SMALL_READ = 1024

# In seconds: a client that does not take its reply for longer counts as idle.
_PATIENCE_WITH_A_READER = 30.0

_INT = Struct("i")

# Looked up at each request.
_IDLE, _RECEIVING, _REQUESTED, _SENDING, _CLOSED = (
    State.IDLE,
    State.RECEIVING,
    State.REQUESTED,
    State.SENDING,
    State.CLOSED,
)


class Parts(msgspec.Struct, frozen=True):
    """The parts that all client sockets share; `max_request` in bytes."""

    loop: "AbstractEventLoop"
    dispatcher: "Dispatcher"
    connections: "Connections"
    fair_queue: "FairQueue"
    deadlines: "Deadlines"
    max_request: int


class ClientSocket:
    """The server's end of a connection. It owns `sock`, which does not block."""

    # There may be thousands of idle ones.
    __slots__ = (
        "_connection",
        "_is_queued",
        "_is_watched_for_bytes",
        "_is_watched_for_room",
        "_last_heard",
        "_outbox",
        "_parts",
        "_reply_memory",
        "_request_memory",
        "_session",
        "_socket",
        "is_mits",
        "peer",
        "pid",
        "uid",
    )

    def __init__(self, parts: Parts, sock: socket.socket, peer: Peer) -> None:
        self._parts = parts
        self._socket = sock
        self._connection = Connection(parts.max_request)
        self._outbox = Outbox(sock)
        # Whether the event loop watches for bytes to read, and for room to send more.
        self._is_watched_for_bytes = False
        self._is_watched_for_room = False
        self._is_queued = False  # waits for its UID's turn
        self._last_heard = parts.fair_queue.clock()
        self._request_memory = 0  # as last counted
        self._reply_memory = 0  # as last counted
        self.peer = peer
        self.uid, self.pid = peer.uid, peer.pid
        self.is_mits = False  # whether a request has come that only MIT's client makes
        self._session = parts.dispatcher.sessions.open(peer, self._has_hung_up)

    def begin(self) -> None:
        """Wait for the first request."""
        self._watch_for_bytes()

    # Called by the event loop

    def _on_bytes(self) -> None:
        state = self._connection.state
        if self._is_queued or not (state is _IDLE or state is _RECEIVING):
            # The bytes stay in the kernel, and are read later.
            self._is_watched_for_bytes = False
            self._parts.loop.remove_reader(self._socket.fileno())
        elif self._parts.fair_queue.admits(self.uid):
            self.take_turn()
        else:
            self._queue()

    def _on_room(self) -> None:
        if self._is_queued:
            self._ignore_room()
        elif self._parts.fair_queue.admits(self.uid):
            self.take_turn()
        else:
            self._queue()

    def _queue(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._parts.fair_queue.wait(self.uid, self)

    def take_turn(self) -> None:
        """Send, serve or read once. The fair queue calls this when it is the connection's turn."""
        self._is_queued = False
        connection = self._connection
        state = connection.state
        if state is _SENDING:
            self._send_more()
        else:
            try:
                frame = connection.next_request() if state is _REQUESTED else self._read()
            except FramingError as error:
                self.break_off("frame", str(error))
                return
            if frame is not None:
                self._serve(frame)
                if (
                    connection.state is _IDLE
                    and self._is_watched_for_bytes
                    and not (self._request_memory or self._reply_memory)
                ):
                    # Nearly always: the request came complete, and its reply has left.
                    return
        self._settle()

    def _settle(self) -> None:
        """Watch for the next event or queue for the next turn, by the connection's state."""
        state = self._connection.state
        if state is _IDLE:
            if not self._is_watched_for_bytes:
                self._watch_for_bytes()
        elif state is _RECEIVING:
            self._parts.deadlines.begin(self)
            self._watch_for_bytes()
        elif state is _REQUESTED:
            self._queue()
        elif state is _SENDING:
            self._watch_for_room()
        elif state is _CLOSED:
            return
        if self._connection.memory != self._request_memory:
            self._count_request_memory(self._connection.memory)
        if self._outbox.memory != self._reply_memory:
            self._count_reply_memory(self._outbox.memory)

    # While a request is served or a reply is sent, a client usually sends nothing. The socket is still
    # watched until bytes come: to stop watching each time would cost more.

    def _watch_for_bytes(self) -> None:
        if not self._is_watched_for_bytes:
            self._is_watched_for_bytes = True
            self._parts.loop.add_reader(self._socket.fileno(), self._on_bytes)

    def _watch_for_room(self) -> None:
        if not self._is_watched_for_room:
            self._is_watched_for_room = True
            self._parts.loop.add_writer(self._socket.fileno(), self._on_room)

    def _ignore_room(self) -> None:
        if self._is_watched_for_room:
            self._is_watched_for_room = False
            self._parts.loop.remove_writer(self._socket.fileno())

    # One turn

    def _read(self) -> Frame | None:
        connection = self._connection
        requests = self._parts.connections.requests
        had_begun = connection.state is _RECEIVING
        try:
            data = self._socket.recv(self._read_size() if requests.total else _READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            # The client has closed its end, and all its requests are answered.
            self.abort()
            return None
        frame = connection.receive(data)
        if frame is not None and had_begun:
            # If the next request has begun already, it has a deadline of its own.
            self._parts.deadlines.end(self)
        return frame

    def _read_size(self) -> int:
        if self._connection.missing > _READ_SIZE:
            return min(self._connection.missing, _LARGEST_READ)
        has_enough = self._parts.connections.requests.of(self.uid) >= _ENOUGH
        return _SMALL_READ if has_enough else _READ_SIZE

    def _serve(self, frame: Frame) -> None:
        parts = self._parts
        fair_queue = parts.fair_queue
        self._last_heard = fair_queue.now
        if not self.is_mits and frame.opcode in MITS_OPCODES:
            self.is_mits = shows_mits_client(frame)
        answer = parts.dispatcher.answer(self.peer, frame, self._session)
        # If an error in pykcm prevents a reply, the connection is closed: the client must not wait for ever.
        reply = answer if isinstance(answer, (bytes, Pieces)) else step(answer, self._reply_late, self.abort)
        if reply is not None:
            self._send(reply)
        # The time that serving took does not count as a pause.
        fair_queue.now = fair_queue.clock()

    def _reply_late(self, reply: Sendable) -> None:
        if self._connection.state is not State.CLOSED:
            self._send(reply)
            self._settle()

    def _send(self, reply: Sendable) -> None:
        try:
            self._connection.replied(self._outbox.send(reply))
        except OSError:
            self.abort()

    def _send_more(self) -> None:
        try:
            unsent = self._outbox.send_more()
        except OSError:
            self.abort()
            return
        self._connection.sent(unsent)
        if not unsent:
            self._ignore_room()

    # Limits on memory

    def _count_request_memory(self, memory: int) -> None:
        more, self._request_memory = memory - self._request_memory, memory
        to_close = self._parts.connections.count_request_memory(self, more)
        if to_close is not None:
            to_close.break_off("requests", "too many bytes of this UID's requests wait or are incomplete")

    def _count_reply_memory(self, memory: int) -> None:
        more, self._reply_memory = memory - self._reply_memory, memory
        to_close = self._parts.connections.count_reply_memory(self, more)
        if to_close is not None:
            to_close.break_off("replies", "too many bytes of replies to this UID wait to be taken")

    @property
    def request_memory(self) -> int:
        """Bytes of memory that its requests take."""
        return self._request_memory

    @property
    def reply_memory(self) -> int:
        """Bytes of memory that its untaken replies take."""
        return self._reply_memory

    def give_up(self) -> None:
        """Close: the deadline of the incomplete request has passed."""
        self.break_off("late", f"a request was not complete within {self._parts.deadlines.patience:.0f} s")

    def break_off(self, limit: str, reason: str) -> None:
        """Close at once, because a limit was exceeded."""
        self._parts.connections.broken_off[limit] += 1
        _BROKEN_OFF.write(
            logging.WARNING,
            self.uid,
            "%s, process %d: connection closed: %s",
            User(self.uid),
            self.pid,
            reason,
            fields={"KCM_UID": self.uid},
        )
        self.abort()

    # For the limits of all connections

    @property
    def state(self) -> State:
        """The connection's state, as the limits see it.

        A connection whose client has not taken its reply for long counts as idle. One that waits for its turn
        to be read does not.
        """
        state = self._connection.state
        if self._is_queued and state is State.IDLE:
            return State.REQUESTED
        if (
            state is State.SENDING
            and self._parts.fair_queue.clock() - self._last_heard > _PATIENCE_WITH_A_READER
        ):
            return State.IDLE
        return state

    @property
    def last_heard(self) -> float:
        """When the last request came, in seconds of the queue's clock."""
        return self._last_heard

    def _has_hung_up(self) -> bool:
        """Whether the client has closed its end, even if the close is not read yet."""
        fd = self._socket.fileno()
        if fd < 0:
            return True
        poller = select.poll()
        poller.register(fd, 0)
        return any(event & select.POLLHUP for _, event in poller.poll(0))

    @property
    def has_unread(self) -> bool:
        """Whether unread data is pending that will be answered."""
        return self._connection.takes_bytes and any(ioctl(self._socket, FIONREAD, bytes(_INT.size)))

    # The end

    def finish(self) -> None:
        """Take no more requests, answer those that the client has already sent, then close.

        From now on a client that writes gets EPIPE, on which libkrb5 connects again.
        """
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            self.abort()
            return
        # Nothing more can come. If nothing is unread, either, the end need not be waited for.
        if self._connection.state is State.IDLE and not self.has_unread:
            self.abort()

    def give_way(self) -> None:
        """Make room for another connection."""
        if self._connection.takes_bytes:
            # A request that is sent at the same moment must be answered.
            self.finish()
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once, and subtract what was counted for this connection."""
        if self._connection.state is State.CLOSED:
            return
        if self._is_watched_for_bytes:
            self._is_watched_for_bytes = False
            self._parts.loop.remove_reader(self._socket.fileno())
        self._ignore_room()
        self._socket.close()
        self._connection.close()
        self._outbox.clear()
        parts = self._parts
        parts.deadlines.end(self)
        parts.dispatcher.sessions.close(self._session)
        if self._request_memory:
            self._count_request_memory(0)
        if self._reply_memory:
            self._count_reply_memory(0)
        parts.connections.discard(self)
