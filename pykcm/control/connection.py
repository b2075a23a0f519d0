"""The daemon's side of the control socket: each connection makes one request, if its user may make it."""

import asyncio
import errno
import logging
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, cast

from pykcm.control.administration import MOST_CONNECTIONS, MOST_CONNECTIONS_OF_OTHERS, Administration
from pykcm.control.calls import Call
from pykcm.control.frames import FrameError, FrameReader, encode
from pykcm.control.messages import (
    LARGEST_FRAME,
    LARGEST_REQUEST,
    ControlError,
    ErrorCode,
    end,
    error,
    item,
    largest_frame,
    read_arguments,
    read_envelope,
)
from pykcm.control.requests import Request
from pykcm.logs import LimitedLog, User
from pykcm.peer.access import RequestAccess
from pykcm.peer.identity import Kernel, Peer, PeerRefusedError, identify
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.text import excerpt
from pykcm.store.interface import StoreError

log = logging.getLogger(__name__)

# A peer can cause these lines if the socket is open to others than root.
_REFUSALS = LimitedLog(log, "refused at the control socket", 10)

# In bytes: the most frames of all clients that no request has taken yet.
_MOST_UNTAKEN = 4 * LARGEST_FRAME

# In bytes: other users make short requests, and must not use up the memory for administrators.
_LARGEST_REQUEST_OF_OTHERS = 1024

# In seconds.
_PATIENCE_WITH_A_REQUEST = 30.0

# In seconds: the time in which a client reads the error that ends its connection.
_PATIENCE_WITH_A_READER = 5.0

_CODES = {
    Code.FCC_NOFILE: ErrorCode.NOT_FOUND,
    Code.FCC_PERM: ErrorCode.PERMISSION,
    errno.EDQUOT: ErrorCode.QUOTA,
    errno.EIO: ErrorCode.STORE,
}


class Controls:
    """The connections of the control socket, and their common limits."""

    def __init__(
        self,
        administration: Administration,
        requests: Mapping[str, Request],
        kernel: Kernel,
        access: RequestAccess | None = None,
    ) -> None:
        self.administration = administration
        self.requests = requests
        self.kernel = kernel
        self.access = RequestAccess() if access is None else access
        self._connections = administration.connections
        self.open: set[ControlConnection] = set()

    def add(self, connection: "ControlConnection") -> bool:
        """Add the connection; returns False if there are too many.

        Only administrators keep an idle daemon running: other users' programs make requests all day.
        """
        if len(self.open) >= MOST_CONNECTIONS:
            return False
        if connection.is_administrators:
            connection.keeps_awake = True
            self._connections.add_control_connection()
        elif sum(each.uid == connection.uid for each in self.open) >= MOST_CONNECTIONS_OF_OTHERS:
            return False
        self.open.add(connection)
        return True

    def may_request(self, peer: Peer, name: str) -> bool:
        """Whether the peer may make this request. Administrators may make any, known or not."""
        if self.access.is_administrator(peer):
            return True
        found = self.requests.get(name)
        return found is not None and self.access.may_request(peer, found.users)

    def requests_of(self, peer: Peer) -> list[str]:
        """The requests that the peer may make."""
        return sorted(name for name in self.requests if self.may_request(peer, name))

    @property
    def untaken(self) -> int:
        """Received bytes that no request has taken yet."""
        return sum(connection.untaken for connection in self.open)

    def discard(self, connection: "ControlConnection") -> None:
        if connection in self.open:
            self.open.remove(connection)
            self.let_sleep(connection)

    def let_sleep(self, connection: "ControlConnection") -> None:
        """From now on this connection does not keep an idle daemon running."""
        if connection.keeps_awake:
            connection.keeps_awake = False
            self._connections.remove_control_connection()

    async def finish(self) -> None:
        """End all requests. Changes in progress are completed first."""
        tasks = [task for connection in list(self.open) if (task := connection.finish()) is not None]
        if tasks:
            await asyncio.wait(tasks)


class ControlConnection(asyncio.Protocol):
    """Reads one request, and sends its answer as fast as the client takes it."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._reader = FrameReader(LARGEST_REQUEST)
        # Set when another frame is complete, or the stream has ended.
        self._arrived = asyncio.Event()
        self._has_eof = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self.is_administrators = False
        self.keeps_awake = False
        self._transport: asyncio.Transport
        self._peer: Peer

    @property
    def uid(self) -> int:
        """The peer's UID."""
        return self._peer.uid

    @property
    def untaken(self) -> int:
        """Received bytes that the request has not taken yet."""
        return self._reader.size

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        try:
            self._peer = identify(
                cast("socket.socket", transport.get_extra_info("socket")), self._controls.kernel
            )
        except PeerRefusedError as refused:
            self._refuse(None, str(refused))
            return
        self.is_administrators = self._controls.access.is_administrator(self._peer)
        if not self.is_administrators:
            self._reader = FrameReader(_LARGEST_REQUEST_OF_OTHERS)
        if not self._controls.requests_of(self._peer):
            self._refuse(self._peer.uid, "only root may use it")
        elif not self._controls.add(self):
            self._give_up(ControlError(ErrorCode.BUSY, "too many connections to the control socket"))
        else:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_WITH_A_REQUEST, self._is_late)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            self._reader.feed(data)
            if self._controls.untaken > _MOST_UNTAKEN:
                self._break_off(ControlError(ErrorCode.BUSY, "too much is sent at the same time: try again"))
                return
            if self._task is None and self._reader.has_frame():
                self._begin()
            if self._task is not None and self._reader.has_frame():
                # The frame stays packed until the request takes it, and no more is read meanwhile.
                self._transport.pause_reading()
                self._arrived.set()
        except FrameError as malformed:
            self._break_off(_malformed(malformed))

    def eof_received(self) -> bool:
        if self._reader.size and not self._reader.has_frame() and not self._is_over:
            # An import that ends within a frame must not pass for complete.
            self._break_off(_cut_off())
            return False
        self._has_eof = True
        self._arrived.set()
        # The client may have sent all its frames, and wait for the answer.
        if self._task is None or self._is_over or self._has_hung_up():
            return False
        self._watch_for_hang_up()
        return True

    def _has_hung_up(self) -> bool:
        """Whether the client has closed both directions: asyncio does not report it after the first one."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), 0)
        return bool(poll.poll(0))

    def _watch_for_hang_up(self) -> None:
        if self._has_hung_up():
            self._transport.abort()
        else:
            self._timer = asyncio.get_running_loop().call_later(1.0, self._watch_for_hang_up)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._controls.discard(self)

    # One request

    def _begin(self) -> None:
        """Read the request, and start its task."""
        self._stop_timer()
        try:
            read = self._read_request(self._reader.take())
        except ControlError as failure:
            self._give_up(failure)
            return
        if read is None:
            return
        call, found = read
        if not found.keeps_awake:
            self._controls.let_sleep(self)
        self._task = asyncio.get_running_loop().create_task(self._serve(call, found))
        administration = self._controls.administration
        largest = found.largest_frame or largest_frame(administration.config)
        self._reader.limit(largest if found.takes_frames else 0)

    def _read_request(self, frame: bytes) -> tuple[Call, Request] | None:
        """Return None if the peer may not make this request; then it has been answered."""
        envelope = read_envelope(frame)
        if not self._controls.may_request(self._peer, envelope.request):
            self._refuse_request(envelope.request)
            return None
        found = self._controls.requests.get(envelope.request)
        if found is None:
            known = ", ".join(sorted(self._controls.requests))
            raise ControlError(ErrorCode.REQUEST, f"unknown request (known are: {known})")
        arguments: Any = read_arguments(envelope.arguments, found.arguments)
        return Call(self._controls.administration, self._peer, arguments, self._receive), found

    async def _receive(self) -> bytes | None:
        """Return the next frame behind the request, or None at the end of the client's stream."""
        # There may be many small frames: other clients are served after each.
        await asyncio.sleep(0)
        while not self._reader.has_frame():
            if self._has_eof:
                if self._reader.size:
                    raise _cut_off()
                return None
            self._arrived.clear()
            await self._arrived.wait()
        try:
            frame = self._reader.take()
            self._reader.check()
        except FrameError as malformed:
            raise _malformed(malformed) from None
        if not self._reader.has_frame() and not self._is_over:
            self._transport.resume_reading()
        return frame

    async def _serve(self, call: Call, found: Request) -> None:
        try:
            answer = found.run(call)
            if isinstance(answer, AsyncIterator):
                try:
                    async for each in answer:
                        await self._send(item(each), call.patience)
                finally:
                    # It releases its resources now, not when it is garbage-collected.
                    if isinstance(answer, AsyncGenerator):
                        await answer.aclose()
            else:
                await answer
            await self._send(end(call.summary), call.patience)
            self._transport.close()
        except ControlError as failure:
            self._give_up(failure)
        except StoreError as failed:
            self._give_up(ControlError(ErrorCode.STORE, str(failed)))
        except KcmError as failed:
            self._give_up(ControlError(_CODES.get(failed.code, ErrorCode.INTERNAL), str(failed)))
        except Exception:
            log.exception("a request on the control socket failed by an error in pykcm")
            self._give_up(ControlError(ErrorCode.INTERNAL, "an error in pykcm; its log says more"))

    async def _send(self, message: dict[str, Any], patience: float | None) -> None:
        self._transport.write(encode(message))
        # KCM clients are served after each item.
        await asyncio.sleep(0)
        if self._writable.is_set():
            return
        try:
            async with asyncio.timeout(patience):
                await self._writable.wait()
        except TimeoutError:
            raise ControlError(
                ErrorCode.BUSY, f"given up: the client read nothing of the answer for {patience:g} seconds"
            ) from None

    # How it ends

    def finish(self) -> asyncio.Task[None] | None:
        """End the request in progress; returns the task that is still ending, if any."""
        if self._task is None:
            self._transport.close()
            return None
        self._task.cancel()
        self._task.add_done_callback(lambda _: self._transport.close())
        return self._task

    def _refuse_request(self, name: str) -> None:
        allowed = ", ".join(self._controls.requests_of(self._peer))
        self._refuse(
            self._peer.uid,
            f"only root may make the request {excerpt(name)!r} (this user may make: {allowed})",
        )

    def _refuse(self, uid: int | None, reason: str) -> None:
        client = "a peer" if uid is None else User(uid)
        fields = {} if uid is None else {"KCM_UID": uid}
        _REFUSALS.write(logging.WARNING, uid, "control socket: %s refused: %s", client, reason, fields=fields)
        self._give_up(ControlError(ErrorCode.PERMISSION, reason))

    def _break_off(self, failure: ControlError) -> None:
        if self._task is not None:
            self._task.cancel()
        self._give_up(failure)

    def _is_late(self) -> None:
        self._give_up(ControlError(ErrorCode.MALFORMED, "no complete request in time"))

    def _give_up(self, failure: ControlError) -> None:
        """Answer with an error. Further data of the client is read and dropped until it has closed.

        A socket that is closed with unread data would discard the answer.
        """
        self._stop_timer()
        if self._is_over or self._transport.is_closing():
            return
        self._is_over = True
        self._reader = FrameReader(0)
        self._transport.write(encode(error(failure)))
        self._transport.write_eof()
        self._transport.resume_reading()
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_WITH_A_READER, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _cut_off() -> ControlError:
    return ControlError(ErrorCode.MALFORMED, "the stream ends in the middle of a frame")


def _malformed(error: FrameError) -> ControlError:
    return ControlError(ErrorCode.MALFORMED, f"not a valid frame: {error}")
