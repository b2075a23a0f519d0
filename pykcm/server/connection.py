"""One client's connection: requests in, replies out in the same order."""

import asyncio
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, cast

from pykcm.peer.identity import Kernel, Peer, PeerRefusedError, identify
from pykcm.protocol.framing import Frame, FrameReader, FramingError, Sendable
from pykcm.server.service import Service
from pykcm.server.stepping import step

if TYPE_CHECKING:
    from pykcm.server.connections import Connections

log = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """Answers one request after the other; those that come meanwhile wait, and reading pauses."""

    def __init__(
        self, service: Service, kernel: Kernel, connections: "Connections", max_request: int
    ) -> None:
        self._service = service
        self._kernel = kernel
        self._connections = connections
        self._reader = FrameReader(max_request)
        self._frames: deque[Frame] = deque()
        self._peer: Peer
        self._transport: asyncio.Transport
        self._is_waiting = False  # for the reply to the request that was begun
        self._is_choked = False  # the client does not read its replies
        self._has_ended = False  # no more requests will come
        self._is_paused = False

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        try:
            self._peer = identify(transport.get_extra_info("socket"), self._kernel)
        except PeerRefusedError as refusal:
            log.warning("connection refused: %s", refusal)
            self._transport.abort()
            return
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        self._frames.clear()
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except FramingError as error:
            peer = self._peer
            if self._connections.broken_off_warnings.is_due(peer.uid):
                log.warning("UID %d (process %d): connection closed: %s", peer.uid, peer.pid, error)
            self._has_ended = True
            self._transport.abort()
            return
        self._frames.extend(frames)
        self._advance()

    def eof_received(self) -> bool:
        """Keep the connection until what has begun is answered."""
        self._has_ended = True
        return self._is_waiting or bool(self._frames)

    def pause_writing(self) -> None:
        self._is_choked = True

    def resume_writing(self) -> None:
        self._is_choked = False
        self._advance()

    # What happens to the requests

    def _advance(self) -> None:
        frames = self._frames
        while frames and not self._is_waiting and not self._is_choked:
            reply = step(self._service.perform(self._peer, frames.popleft()), self._reply_late)
            if reply is None:
                self._is_waiting = True
            else:
                self._reply(reply)
        if self._has_ended:
            if not frames and not self._is_waiting:
                self._transport.close()
        elif self._is_paused != bool(frames):
            self._is_paused = not self._is_paused
            if self._is_paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _reply_late(self, reply: Sendable) -> None:
        self._is_waiting = False
        self._reply(reply)
        self._advance()

    def _reply(self, reply: Sendable) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        if isinstance(reply, bytes):
            transport.write(reply)
        else:
            transport.writelines(reply.pieces)

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
