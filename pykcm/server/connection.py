"""One client's connection: requests in, replies out in the same order."""

import asyncio
import logging
import socket
from fcntl import ioctl
from struct import calcsize
from termios import FIONREAD
from typing import TYPE_CHECKING, NamedTuple, cast

from pykcm.logs import LimitedLog
from pykcm.peer.identity import Kernel, Peer, PeerRefusedError, identify
from pykcm.protocol.framing import Frame, FrameReader, FramingError, Sendable
from pykcm.protocol.messages import MITS_OPCODES, shows_mits_client
from pykcm.server.deadlines import Deadlines
from pykcm.server.rota import Rota
from pykcm.server.service import Service
from pykcm.server.sessions import Session
from pykcm.server.stepping import step

if TYPE_CHECKING:
    from pykcm.server.connections import Connections

log = logging.getLogger(__name__)

# Lines that users cause.
_REFUSALS = LimitedLog(log, "connections refused, peer not known", 1)
_BROKEN_OFF = LimitedLog(log, "connections closed at a limit", 30)

# In bytes: requests below are not counted towards what a UID may have waiting; there may be one for each
# connection, and whatever comes behind it stays in the kernel.
_SMALL = 16 * 1024

# In seconds: for so long at least nobody else needs the place of a client that does not take its reply.
_PATIENCE_WITH_A_READER = 30.0

_INT_SIZE = calcsize("i")


class Common(NamedTuple):
    """What all connections have in common; `max_request` in bytes."""

    service: Service
    kernel: Kernel
    connections: "Connections"
    rota: Rota
    deadlines: Deadlines
    max_request: int


class Connection(asyncio.Protocol):
    """Answers one request after the other; those that come meanwhile wait, and reading pauses."""

    # There may be thousands that do nothing.
    __slots__ = (
        "_common",
        "_frames",
        "_has_begun",
        "_has_ended",
        "_held",
        "_is_at_rest",
        "_is_choked",
        "_is_paused",
        "_is_queued",
        "_last_heard",
        "_owed",
        "_peer",
        "_performing",
        "_reader",
        "_rota",
        "_service",
        "_session",
        "_transport",
        "is_mits",
        "pid",
        "uid",
    )

    def __init__(self, common: Common) -> None:
        self._common = common
        self._service = common.service
        self._rota = common.rota
        self._reader = FrameReader(common.max_request)
        self._frames: list[Frame] = []  # those that wait, the next one last
        self._performing: Frame | None = None  # begun, and not yet answered
        self._peer: Peer
        self._session: Session | None = None
        self._transport: asyncio.Transport
        self._held = 0  # bytes of requests, as they have been counted
        self._owed = 0  # bytes of replies, as they have been counted
        self._last_heard = 0.0
        self._has_begun = False  # a part of a request has come
        self._is_queued = False  # in the rota
        self._is_choked = False  # the client does not read its replies
        self._has_ended = False  # no more requests will come
        self._is_paused = False
        self._is_at_rest = True  # nothing has begun, waits or is in the way
        self.uid = -1
        self.pid = 0
        self.is_mits = False  # a request has shown MIT's client

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        try:
            self._peer = identify(transport.get_extra_info("socket"), self._common.kernel)
        except PeerRefusedError as refusal:
            self._common.connections.unidentified += 1
            _REFUSALS.write(
                logging.WARNING,
                refusal.uid,
                "connection refused: %s",
                refusal,
                fields={"KCM_UID": refusal.uid},
            )
            self._service.connection_refused(refusal.uid, None, str(refusal))
            self._transport.abort()
            return
        self.uid, self.pid = self._peer.uid, self._peer.pid
        self._last_heard = self._rota.clock()
        if self._common.connections.add(self):
            self._session = self._service.sessions.open(self._peer)
        else:
            self._service.connection_refused(self.uid, self._peer.label, "no room for another connection")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._common.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except FramingError as error:
            self._break_off("frame", str(error))
            return
        if (
            self._is_at_rest
            and len(frames) == 1
            and len(frames[0].message) + 4 == len(data) <= _SMALL
            and self._rota.admits(self.uid)
        ):
            # Nearly always: nothing waits, and nothing has to be counted.
            self._serve(frames[0])
        else:
            if frames and self._has_begun:
                # What had begun is complete; what has begun behind it has its own time.
                self._has_begun = False
                self._common.deadlines.end(self)
            self._frames[:0] = reversed(frames)
            self._advance()

    def eof_received(self) -> bool:
        """Keep the connection until what has begun is answered."""
        self._has_ended = True
        self._end_session()
        return self._performing is not None or bool(self._frames)

    def pause_writing(self) -> None:
        self._is_choked = True
        self._is_at_rest = False
        if not self._owe(self._transport.get_write_buffer_size()):
            self._break_off("replies", "too many bytes of replies to this UID wait to be taken")

    def resume_writing(self) -> None:
        self._is_choked = False
        self._owe(0)
        self._advance()

    # What happens to the requests

    def _advance(self) -> None:
        rota = self._rota
        while self._frames and not self._is_queued and self._may_serve():
            if rota.admits(self.uid):
                self._serve(self._frames.pop())
            else:
                self._is_queued = True
                rota.wait(self.uid, self)
        if self._has_ended:
            if not self._frames and self._performing is None:
                self._transport.close()
            return
        self._pause_or_resume()
        if self._reader.size or self._frames or self._performing is not None or self._held:
            self._count_what_waits()
        if self._has_begun or self._reader.size:
            self._mind_the_deadline()
        self._is_at_rest = not (
            self._frames or self._performing or self._is_choked or self._has_begun or self._reader.size
        )

    def take_turn(self) -> None:
        """Serve one request: the rota calls this when it is this connection's turn."""
        self._is_queued = False
        if self._frames and self._may_serve():
            self._serve(self._frames.pop())
        self._advance()

    def _may_serve(self) -> bool:
        return self._performing is None and not self._is_choked

    def _serve(self, frame: Frame) -> None:
        rota = self._rota
        self._last_heard = rota.now
        if not self.is_mits and frame.opcode in MITS_OPCODES:
            self.is_mits = shows_mits_client(frame)
        reply = step(
            self._service.perform(self._peer, frame, self._session), self._reply_late, self._reply_never
        )
        if reply is None:
            self._performing = frame
            self._is_at_rest = False
        elif isinstance(reply, bytes):
            self._transport.write(reply)
        else:
            self._send(reply)
        # The time that serving took is no pause.
        rota.now = rota.clock()

    def _reply_late(self, reply: Sendable) -> None:
        self._performing = None
        if not self._transport.is_closing():
            self._send(reply)
        self._advance()

    def _reply_never(self) -> None:
        """The request failed without a reply, by an error in pykcm: its client must not wait for ever."""
        self._performing = None
        self._end()
        self._transport.abort()

    def _send(self, reply: Sendable) -> None:
        if isinstance(reply, bytes):
            self._transport.write(reply)
        else:
            self._rota.charge(reply.size)
            self._transport.writelines(reply.pieces)

    # What keeps one client from taking up too much

    def _pause_or_resume(self) -> None:
        # The one that is served or queued is no reason: its client waits for the reply and sends nothing.
        has_more = len(self._frames) + (self._performing is not None) > 1
        if has_more != self._is_paused:
            self._is_paused = has_more
            if has_more:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _count_what_waits(self) -> None:
        size = self._reader.size + sum(len(frame.message) for frame in self._frames)
        if self._performing is not None:
            size += len(self._performing.message)
        held = size if size > _SMALL else 0
        if held != self._held:
            more = held - self._held
            self._held = held
            if not self._common.connections.hold(self.uid, more):
                self._break_off("requests", "too much of this UID's requests waits or is incomplete")

    def _owe(self, size: int) -> bool:
        more = size - self._owed
        self._owed = size
        return self._common.connections.owe(self.uid, more)

    def _mind_the_deadline(self) -> None:
        # While it is us who do not read, the client cannot complete what it has begun.
        self._has_begun = bool(self._reader.size) and not self._is_paused
        if self._has_begun:
            self._common.deadlines.begin(self)
        else:
            self._common.deadlines.end(self)

    def give_up(self) -> None:
        """The time for the request that has begun is over."""
        self._break_off("late", f"a request was not complete within {self._common.deadlines.patience:.0f} s")

    def _break_off(self, limit: str, why: str) -> None:
        self._common.connections.broken_off[limit] += 1
        _BROKEN_OFF.write(
            logging.WARNING,
            self.uid,
            "UID %d (process %d): connection closed: %s",
            self.uid,
            self._peer.pid,
            why,
            fields={"KCM_UID": self.uid, "KCM_PID": self._peer.pid},
        )
        self._end()
        self._transport.abort()

    def _end(self) -> None:
        """Take nothing more, and give back at once what has been taken."""
        self._has_ended = True
        self._end_session()
        self._frames.clear()
        self._reader = FrameReader(self._common.max_request)
        self._common.deadlines.end(self)
        if self._held:
            self._common.connections.hold(self.uid, -self._held)
            self._held = 0
        if self._owed:
            self._owe(0)

    def _end_session(self) -> None:
        if self._session is not None:
            self._service.sessions.close(self._session)

    @property
    def idle_since(self) -> float | None:
        """When the last request came, in seconds of the rota's clock; None while one is under way.

        A request is under way from its first byte to the last one of its reply; but a client that has not
        taken its reply for long has given it up.
        """
        under_way = (
            self._performing is not None
            or self._frames
            or self._reader.size
            or self._transport.get_write_buffer_size()
        )
        return self._last_heard if not under_way or self._has_given_up else None

    @property
    def _has_given_up(self) -> bool:
        waited = self._rota.clock() - self._last_heard
        return self._is_choked and self._performing is None and waited > _PATIENCE_WITH_A_READER

    @property
    def has_unread(self) -> bool:
        """Whether the client has sent something that the event loop has not brought yet, and will."""
        socket_fd = self._transport.get_extra_info("socket").fileno()
        return not self._has_given_up and any(ioctl(socket_fd, FIONREAD, bytes(_INT_SIZE)))

    def give_way(self) -> None:
        """Make room for another connection."""
        if self._has_given_up:
            self.abort()
        else:
            # Not at once: a request that is sent in the same moment must be answered. To a write behind it
            # the client gets EPIPE, on which libkrb5 connects anew.
            self.finish()

    # What the daemon's end calls

    def finish(self) -> None:
        """Take no more requests, answer those that the client has already sent, then close.

        From now on a client that writes gets EPIPE, which libkrb5 answers by connecting anew.
        """
        # The transport's own socket object does not let itself be shut down.
        sock = socket.socket(fileno=self._transport.get_extra_info("socket").fileno())
        try:
            sock.shutdown(socket.SHUT_RD)
        except OSError:
            self._transport.abort()
        finally:
            sock.detach()

    def abort(self) -> None:
        self._transport.abort()
