"""The daemon's side of the control socket: one request for each connection, by those who may make it."""

import asyncio
import errno
import logging
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, cast

from pykcm.control.calls import (
    END_OF_ITEMS,
    MOST_CONNECTIONS,
    MOST_CONNECTIONS_OF_OTHERS,
    WAITING_ITEMS,
    Administration,
    Call,
    Request,
)
from pykcm.control.items import ItemReader, ItemsError, encode
from pykcm.control.messages import (
    LARGEST_REQUEST,
    MOST_ELEMENTS_OF_REQUEST,
    ControlError,
    ErrorCode,
    convert,
    end,
    error,
    item,
    read_envelope,
)
from pykcm.logs import LimitedLog
from pykcm.peer.access import RequestAccess
from pykcm.peer.identity import Kernel, Peer, PeerRefusedError, identify
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.text import excerpt
from pykcm.store.interface import StoreError

log = logging.getLogger(__name__)

# Lines that a peer can cause where the socket is open to others than root.
_REFUSALS = LimitedLog(log, "refused at the control socket", 10)

# In bytes: what all clients together have sent and is not yet taken.
_MOST_UNTAKEN = 2 * LARGEST_REQUEST

# Others than administrators make short requests, and may not take what administrators need: bytes, elements.
_LARGEST_REQUEST_OF_OTHERS = 1024
_MOST_ELEMENTS_OF_OTHERS = 32

# In seconds.
_PATIENCE_WITH_A_REQUEST = 30.0

# In seconds: for a client to take the error that is the last it is told.
_PATIENCE_WITH_A_READER = 5.0

_CODES = {
    Code.FCC_NOFILE: ErrorCode.NOT_FOUND,
    Code.FCC_PERM: ErrorCode.PERMISSION,
    errno.EDQUOT: ErrorCode.QUOTA,
    errno.EIO: ErrorCode.STORE,
}


class Controls:
    """The connections of the control socket, and what they have in common."""

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
        """Count the connection in; False where there are too many.

        The daemon stays awake for administrators: others may ask again and again all day.
        """
        if len(self.open) >= MOST_CONNECTIONS:
            return False
        if connection.is_administrators:
            self._connections.stay_awake()
        elif sum(not each.is_administrators for each in self.open) >= MOST_CONNECTIONS_OF_OTHERS:
            return False
        self.open.add(connection)
        return True

    def may_request(self, peer: Peer, name: str) -> bool:
        """Whether the peer may make this request. Administrators learn which requests there are."""
        if self.access.is_administrator(peer):
            return True
        found = self.requests.get(name)
        return found is not None and self.access.may_request(peer, found.users)

    def requests_of(self, peer: Peer) -> list[str]:
        """The requests that the peer may make."""
        return sorted(name for name in self.requests if self.may_request(peer, name))

    @property
    def untaken(self) -> int:
        """Bytes that clients have sent, and that are no items yet."""
        return sum(connection.untaken for connection in self.open)

    def discard(self, connection: "ControlConnection") -> None:
        if connection in self.open:
            self.open.remove(connection)
            if connection.is_administrators:
                self._connections.may_sleep()

    async def finish(self) -> None:
        """End all: what follows events would never end, and what changes something ends what it has begun."""
        tasks = [task for connection in list(self.open) if (task := connection.finish()) is not None]
        if tasks:
            await asyncio.wait(tasks)


class ControlConnection(asyncio.Protocol):
    """Reads one request, and sends what answers it as fast as it is taken."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._reader = ItemReader(LARGEST_REQUEST, MOST_ELEMENTS_OF_REQUEST)
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self.is_administrators = False
        self._transport: asyncio.Transport
        self._peer: Peer

    @property
    def untaken(self) -> int:
        """Bytes that have come, and are no items yet."""
        return self._reader.size

    # What the event loop calls

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
            self._reader = ItemReader(_LARGEST_REQUEST_OF_OTHERS, _MOST_ELEMENTS_OF_OTHERS)
        if not self._controls.requests_of(self._peer):
            self._refuse(self._peer.uid, "only root may use it")
        elif not self._controls.add(self):
            self._give_up(ControlError(ErrorCode.BUSY, "too many connections to the control socket"))
        else:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_WITH_A_REQUEST, self._is_late)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._take(data)

    def _take(self, data: bytes = b"") -> None:
        """Decode items until enough are waiting: the rest stays as it came, and no more is read."""
        try:
            for _, each in self._reader.feed_packed(data):
                if self._task is None:
                    self._begin(each)
                else:
                    self._inbox.put_nowait(each)
                if self._inbox.qsize() >= WAITING_ITEMS:
                    self._transport.pause_reading()
                    return
        except ItemsError as malformed:
            self._break_off(ErrorCode.MALFORMED, f"not a CBOR item as it should be: {malformed}")
            return
        if self._controls.untaken > _MOST_UNTAKEN:
            self._break_off(ErrorCode.BUSY, "too much is sent at the same time: try again")
            return
        self._transport.resume_reading()

    def eof_received(self) -> bool:
        if self._reader.has_begun and not self._is_over:
            # What is not whole is no end: an import would pass for complete.
            self._break_off(ErrorCode.MALFORMED, "what came ends in the middle of a CBOR item")
            return False
        self._inbox.put_nowait(END_OF_ITEMS)
        # A client may have said all that it has to say, and wait for the answer.
        if self._task is None or self._is_over or self._has_hung_up():
            return False
        self._watch_for_hang_up()
        return True

    def _has_hung_up(self) -> bool:
        """Whether the client has closed both ways: nothing tells of it any more once it has closed one."""
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

    def _begin(self, request: Any) -> None:
        self._stop_timer()
        self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: Any) -> None:
        try:
            envelope = read_envelope(request)
            if not self._controls.may_request(self._peer, envelope.request):
                self._refuse_request(envelope.request)
                return
            found = self._controls.requests.get(envelope.request)
            if found is None:
                known = ", ".join(sorted(self._controls.requests))
                raise ControlError(ErrorCode.REQUEST, f"unknown request (known are: {known})")  # noqa: TRY301
            call = Call(
                self._controls.administration,
                self._peer,
                convert(envelope.arguments, found.arguments),
                self._inbox,
                self._resume,
            )
            answer = found.run(call)
            if isinstance(answer, AsyncIterator):
                try:
                    async for each in answer:
                        await self._send(item(each), call.patience)
                finally:
                    # What it holds it lets go of now, not when the collector finds it.
                    if isinstance(answer, AsyncGenerator):
                        await answer.aclose()
            else:
                await answer
            await self._send(end(call.summary), call.patience)
            self._transport.close()
        except ControlError as trouble:
            self._give_up(trouble)
        except StoreError as failed:
            self._give_up(ControlError(ErrorCode.STORE, str(failed)))
        except KcmError as failed:
            self._give_up(ControlError(_CODES.get(failed.code, ErrorCode.INTERNAL), str(failed)))
        except Exception:
            log.exception("a request on the control socket failed by an error in pykcm")
            self._give_up(ControlError(ErrorCode.INTERNAL, "an error in pykcm; its log says more"))

    async def _send(self, message: dict[str, Any], patience: float | None) -> None:
        self._transport.write(encode(message))
        # KCM's clients have their turn after each item.
        await asyncio.sleep(0)
        if self._writable.is_set():
            return
        try:
            async with asyncio.timeout(patience):
                await self._writable.wait()
        except TimeoutError:
            raise ControlError(
                ErrorCode.BUSY, f"given up: nothing of the answer was taken for {patience:g} seconds"
            ) from None

    def _resume(self) -> None:
        if not self._is_over and self._inbox.qsize() < WAITING_ITEMS:
            self._take()

    # How it ends

    def finish(self) -> asyncio.Task[None] | None:
        """End what is under way; gives the task that is still ending, if any."""
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

    def _refuse(self, uid: int | None, why: str) -> None:
        whose = "a peer" if uid is None else f"UID {uid}"
        fields = {} if uid is None else {"KCM_UID": uid}
        _REFUSALS.write(logging.WARNING, uid, "control socket: %s refused: %s", whose, why, fields=fields)
        self._give_up(ControlError(ErrorCode.PERMISSION, why))

    def _break_off(self, trouble: ErrorCode, why: str) -> None:
        if self._task is not None:
            self._task.cancel()
        self._reader = ItemReader(0)
        self._give_up(ControlError(trouble, why))

    def _is_late(self) -> None:
        self._give_up(ControlError(ErrorCode.MALFORMED, "no complete request in time"))

    def _give_up(self, trouble: ControlError) -> None:
        """Answer with an error, and let the client read it: what it still sends is read and forgotten.

        To close with something unread would take the answer from it.
        """
        self._stop_timer()
        if self._is_over or self._transport.is_closing():
            return
        self._is_over = True
        self._transport.write(encode(error(trouble)))
        self._transport.write_eof()
        self._transport.resume_reading()
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_WITH_A_READER, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
