"""A connection that sends arbitrary bytes, without code of pykcm."""

import select
import socket
from pathlib import Path
from struct import Struct
from typing import Self

from .daemon import LIMIT, effective_uid

HEADER = Struct(">IBBH")
REPLY = Struct(">IIi")


def request(opcode: int, arguments: bytes = b"", *, major: int = 2, minor: int = 0) -> bytes:
    return HEADER.pack(4 + len(arguments), major, minor, opcode) + arguments


class RawConnection:
    """A connection of this UID; replies are split into code and payload, and not decoded."""

    def __init__(self, path: Path, uid: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(LIMIT)
        with effective_uid(uid):
            self._socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """The number of the descriptor."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def no_more(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reply(self) -> tuple[int, bytes]:
        """The code and payload of a reply, whose outer status must be 0."""
        length, status, code = REPLY.unpack(self._receive(REPLY.size))
        assert status == 0
        return code, self._receive(length - 4)

    def ask(self, opcode: int, arguments: bytes = b"") -> int:
        """Send a request; returns the code of its reply."""
        self.send(request(opcode, arguments))
        return self.reply()[0]

    def is_closed(self) -> bool:
        """Whether the daemon closes the connection without a reply."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    @property
    def has_been_closed(self) -> bool:
        """Whether the daemon has already closed the connection."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        try:
            return bool(readable) and self._socket.recv(1, socket.MSG_PEEK) == b""
        except ConnectionResetError:
            return True

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            piece = self._socket.recv(size - len(received))
            assert piece, "the daemon closed the connection"
            received += piece
        return received
