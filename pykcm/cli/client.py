"""A blocking client of the control socket; it checks the listener before it sends secrets."""

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec

from pykcm.cli.names import format_user
from pykcm.control.frames import FrameError, FrameReader, FrameType, FrameTypeError, encode
from pykcm.control.messages import LARGEST_MESSAGE, ControlError, ErrorCode, request
from pykcm.peer.identity import ROOT, listener_of, uid_of
from pykcm.protocol.text import escape_path, printable
from pykcm.sockets.bound_socket import folder_of_others
from pykcm.sockets.connecting import connect

# Requests with tickets or a key, or after which the administrator expects a new key.
_SECRET_REQUESTS = {"import", "rekey"}

# The user of pykcm.service.
_DAEMON_USER = "pykcm"

_PIECE = 256 * 1024

# In bytes: a frame has at most one credential, which fits into the largest request of a KCM client.
_LARGEST_FRAME = 64 * 1024 * 1024 + LARGEST_MESSAGE

# In seconds: a daemon usually answers within this time, even if systemd has to start it first.
_EXPECTED_WITHIN = 5.0


class _Error(msgspec.Struct):
    code: str
    message: str


class _Reply(msgspec.Struct):
    """A frame of the daemon, which has exactly one of these."""

    item: Any = msgspec.UNSET
    end: dict[str, Any] | None = None
    error: _Error | None = None


class _LargeReply(msgspec.Struct):
    """A frame that is larger than all other messages; it has one credential."""

    item: Annotated[dict[str, bytes], msgspec.Meta(max_length=1)]
    end: None = None
    error: None = None


_REPLY = FrameType(_Reply, LARGEST_MESSAGE)
_LARGE_REPLY = FrameType(_LargeReply, _LARGEST_FRAME)


def _say_nothing() -> None: ...


class Answer:
    """The reply to one request: iterates over its items as they arrive, and then has a `summary`.

    `frames` are sent after the request while items are read, so that neither side blocks the other.
    `on_silence` is called once if the daemon sends nothing for 5 s. `check` gets the connected socket before
    anything is sent, and raises to prevent it. The complete reply must arrive within `patience` seconds
    (None: no limit).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        arguments: dict[str, Any],
        frames: Iterable[Any] = (),
        on_silence: Callable[[], None] = _say_nothing,
        check: Callable[[socket.socket], None] | None = None,
        patience: float | None = None,
    ) -> None:
        self._end = None if patience is None else time.monotonic() + patience
        self.summary: dict[str, Any] = {}
        self._on_silence: Callable[[], None] | None = on_silence
        self._unsent = chain([encode(request(name, arguments))], map(encode, frames))
        self._piece: memoryview | None = None
        self._reader = FrameReader(_LARGEST_FRAME)
        self._socket = connect(path, patience)
        try:
            if check is not None:
                check(self._socket)
            self._socket.setblocking(False)
            self._take_next_piece()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def __iter__(self) -> Iterator[Any]:
        """Yield the items; raises ControlError for the daemon's errors, OSError if the connection ends."""
        try:
            while data := self._receive():
                self._reader.feed(data)
                while self._reader.has_frame():
                    reply = _decode(self._reader.take())
                    if reply.error is not None:
                        raise ControlError(reply.error.code, printable(reply.error.message))
                    if reply.end is not None:
                        self.summary = reply.end
                        return
                    yield reply.item
            raise ConnectionError("the daemon closed the connection before the end of its reply")
        except FrameTypeError:
            raise ControlError(
                ErrorCode.VERSION,
                "the daemon's reply has the format of another version: use the pykcmctl of the daemon's "
                "version, and restart the daemon after an update",
            ) from None
        except FrameError as malformed:
            raise ControlError(
                ErrorCode.MALFORMED, f"the process that listens is not pykcmd ({malformed}): check --socket"
            ) from None
        finally:
            self.close()

    def _receive(self) -> bytes:
        """Receive bytes, and send waiting bytes meanwhile; raises TimeoutError."""
        while True:
            left = None if self._end is None else self._end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            silence = None if self._on_silence is None else _EXPECTED_WITHIN
            readable, writable, _ = select.select(
                [self._socket],
                [] if self._piece is None else [self._socket],
                [],
                min((each for each in (left, silence) if each is not None), default=None),
            )
            if readable:
                self._on_silence = None
                return self._socket.recv(_PIECE)
            if writable:
                self._send_some()
            elif self._on_silence is not None and (left is None or left > _EXPECTED_WITHIN):
                self._on_silence()
                self._on_silence = None

    def _send_some(self) -> None:
        assert self._piece is not None
        try:
            self._piece = self._piece[self._socket.send(self._piece) :]
        except BrokenPipeError:
            # Bytes that the daemon sent before it closed the connection can still be read.
            self._piece = None
            return
        if not self._piece:
            self._take_next_piece()

    def _take_next_piece(self) -> None:
        piece = next(self._unsent, None)
        self._piece = None if piece is None else memoryview(piece)
        if piece is None:
            self._socket.shutdown(socket.SHUT_WR)


def _decode(frame: bytes) -> _Reply | _LargeReply:
    if len(frame) > LARGEST_MESSAGE:
        return _LARGE_REPLY.decode(frame)
    reply = _REPLY.decode(frame)
    if reply.item is msgspec.UNSET and reply.end is None and reply.error is None:
        raise FrameTypeError("the frame has neither an item nor an end nor an error")
    return reply


class ControlClient:
    """Sends requests to the daemon at `path`, each on a new connection.

    `daemon_uid`: a further UID that check_listener() accepts. `on_silence`, `patience`: see Answer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        on_silence: Callable[[], None] = _say_nothing,
        daemon_uid: int | None = None,
        patience: float | None = None,
    ) -> None:
        self.path = path
        self._patience = patience
        self._on_silence = on_silence
        self._daemon_uid = daemon_uid

    def ask(self, name: str, /, *, frames: Iterable[Any] = (), **arguments: Any) -> Answer:
        """Send a request; raises OSError without a daemon, ControlError if it must not get secrets."""
        check = self._check if name in _SECRET_REQUESTS else None
        return Answer(self.path, name, arguments, frames, self._on_silence, check, self._patience)

    def _check(self, sock: socket.socket) -> None:
        check_listener(sock, os.fspath(self.path), self._daemon_uid)

    def run(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Send a request without items, and return the summary of its reply."""
        answer = self.ask(name, **arguments)
        for _ in answer:
            pass
        return answer.summary


class NoKcmServerError(ConnectionError):
    """No KCM server answers; the message says at which path, and why."""


def check_listener(sock: socket.socket, path: str, daemon_uid: int | None = None) -> None:
    """Raise ControlError unless the listener of the connected socket may get secrets.

    It must run as root (as systemd does), as the user `pykcm`, as `daemon_uid` or as the calling user.
    Otherwise the socket must belong to root, and only root may be able to replace it.
    """
    pid, uid = listener_of(sock)
    if uid in {ROOT, os.geteuid(), daemon_uid, uid_of(_DAEMON_USER)} or _is_roots(path):
        return
    process = f"process {pid}" if pid else "a process outside of this container"
    raise ControlError(
        ErrorCode.PERMISSION,
        f"{process} of {format_user(uid)} listens at {escape_path(path)}; this user is neither root nor "
        f"{_DAEMON_USER} nor you, and nothing was sent. If the daemon runs as this user, give --daemon-user",
    )


def _is_roots(path: str) -> bool:
    try:
        return (
            Path(path).stat().st_uid == ROOT and folder_of_others(path, {ROOT}, trusts_sticky=False) is None
        )
    except OSError:
        return False
