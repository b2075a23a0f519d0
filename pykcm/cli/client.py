"""A blocking client of the control socket, which checks the daemon before it sends secrets."""

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

from pykcm.control.frames import FrameError, FrameReader, FrameType, FrameTypeError, encode
from pykcm.control.messages import LARGEST_MESSAGE, ControlError, ErrorCode, request
from pykcm.peer.identity import ROOT, listener_of, uid_of
from pykcm.protocol.text import escape_path, printable
from pykcm.sockets.bound_socket import folder_of_others
from pykcm.sockets.connecting import connect

# Requests that carry tickets or a key, or after which the database is taken to have a new one.
_HANDS_OVER_SECRETS = {"import", "rekey"}

# The user of pykcm.service.
_DAEMON_USER = "pykcm"

_PIECE = 256 * 1024

# In bytes: a frame has one credential at most, which is no larger than a request of a KCM client may be.
_LARGEST_FRAME = 64 * 1024 * 1024 + LARGEST_MESSAGE

# In seconds: even a daemon that has to be started first has answered by then.
_EXPECTED_WITHIN = 5.0


class _Error(msgspec.Struct):
    code: str
    message: str


class _Reply(msgspec.Struct):
    """One of three."""

    item: Any = msgspec.UNSET
    end: dict[str, Any] | None = None
    error: _Error | None = None


class _LargeReply(msgspec.Struct):
    """A frame that is larger than any other message holds a credential and nothing else."""

    item: Annotated[dict[str, bytes], msgspec.Meta(max_length=1)]
    end: None = None
    error: None = None


_REPLY = FrameType(_Reply, LARGEST_MESSAGE)
_LARGE_REPLY = FrameType(_LargeReply, _LARGEST_FRAME)


def _say_nothing() -> None: ...


class Answer:
    """The items that answer one request, as they come; after the last one `summary` is there.

    `frames` are sent behind the request while answers are read, so that neither side waits for the other.
    `on_silence` is called once where the daemon says nothing at all for long; `check` gets the connected
    socket before anything is sent, and raises where nothing is to be sent. The whole answer must come within
    `patience` seconds (None: it may take any time).
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
        """Raises ControlError where the daemon answers with an error, OSError where it is gone."""
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
            raise ConnectionError("the daemon has ended the connection in the middle of its answer")
        except FrameTypeError:
            raise ControlError(ErrorCode.VERSION, "the daemon's answer is of another version") from None
        except FrameError as malformed:
            raise ControlError(ErrorCode.MALFORMED, f"what answers is no pykcmd: {malformed}") from None
        finally:
            self.close()

    def _receive(self) -> bytes:
        """Receive bytes, and meanwhile send those that wait to be sent. Raises TimeoutError."""
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
            # Bytes that the daemon sent before it closed can still be read.
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
        raise FrameTypeError("none of the three")
    return reply


class ControlClient:
    """Asks the daemon at `path`; each request has a connection of its own. `on_silence`: see Answer.

    `daemon_uid`: whom the daemon runs as, where it is none of those that check_listener() knows.
    `patience`: see Answer.
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
        """Raises OSError where there is no daemon, ControlError where secrets are not to be handed to it."""
        check = self._check if name in _HANDS_OVER_SECRETS else None
        return Answer(self.path, name, arguments, frames, self._on_silence, check, self._patience)

    def _check(self, sock: socket.socket) -> None:
        check_listener(sock, os.fspath(self.path), self._daemon_uid)

    def run(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask for something that has no items; gives the summary."""
        answer = self.ask(name, **arguments)
        for _ in answer:
            pass
        return answer.summary


def check_listener(sock: socket.socket, path: str, daemon_uid: int | None = None) -> None:
    """Raise ControlError unless the listener behind the connected socket may be given secrets.

    It must run as root (systemd does), as the user `pykcm`, as `daemon_uid` or as the calling user. Otherwise
    the socket must be root's, and only root may have been able to put it there.
    """
    pid, uid = listener_of(sock)
    if uid in {ROOT, os.geteuid(), daemon_uid, uid_of(_DAEMON_USER)} or _is_roots(path):
        return
    process = f"process {pid}" if pid else "a process that cannot be seen from here"
    raise ControlError(
        ErrorCode.PERMISSION,
        f"{process} of UID {uid} listens at {escape_path(path)}, and that is neither root nor the user "
        f"{_DAEMON_USER} nor you: nothing was sent. If the daemon runs as that user, give --daemon-user",
    )


def _is_roots(path: str) -> bool:
    try:
        return (
            Path(path).stat().st_uid == ROOT and folder_of_others(path, {ROOT}, trusts_sticky=False) is None
        )
    except OSError:
        return False
