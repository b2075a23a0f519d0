"""Requests out of a byte stream, and replies into one.

A request is `u32 length`, then as many bytes: `u8 major, u8 minor, u16 opcode`, arguments. A reply is
`u32 length, u32 outer status`, then as many bytes: `i32 code`, payload. The outer status is always 0:
MIT's client stops reading when it is not, and the stream would be out of step.
"""

from struct import Struct
from typing import NamedTuple

from pykcm.protocol.wire import U32

MAJOR = 2
MINOR = 0
HEADER_SIZE = 4

# MIT's client refuses a longer reply (KCM's MAX_REPLY_SIZE in libkrb5's cc_kcm.c), counted like the length.
MAX_REPLY_SIZE = 10 * 1024 * 1024

_LENGTH_AND_VERSION = Struct(">IBBH")
_REPLY = Struct(">IIi")


class Frame(NamedTuple):
    """One whole request, its arguments still packed: they begin at `HEADER_SIZE` of `message`."""

    opcode: int
    message: bytes

    def __repr__(self) -> str:
        # The message may hold a session key.
        return f"<Frame of operation {self.opcode}, {len(self.message)} bytes>"


class FramingError(Exception):
    """The stream cannot be understood any further: close the connection."""


class FrameReader:
    """Cuts frames out of a stream, whatever pieces it comes in.

    Holds no more than what has arrived: a length that is only announced costs no memory.
    `max_size` is the greatest length accepted, in bytes.
    """

    __slots__ = ("_max_size", "_unread")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._unread = bytearray()

    @property
    def size(self) -> int:
        """Bytes of a request that has begun and is not yet whole."""
        return len(self._unread)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now that `data` has come; raises FramingError.

        Frames before the offending one are lost with it: their sender broke the protocol.
        """
        if not self._unread and len(data) >= _LENGTH_AND_VERSION.size:
            # Nearly always the data is one frame, neither more nor less.
            length, major, _, opcode = _LENGTH_AND_VERSION.unpack_from(data)
            if length == len(data) - 4 <= self._max_size and major == MAJOR:
                return [Frame(opcode, data[4:])]
        self._unread += data
        return self._cut()

    def _cut(self) -> list[Frame]:
        end = len(self._unread)
        frames = []
        at = 0
        with memoryview(self._unread) as unread:
            while at + _LENGTH_AND_VERSION.size <= end:
                length, major, _, opcode = _LENGTH_AND_VERSION.unpack_from(unread, at)
                self._check(length, major)
                begin = at + U32.size
                if begin + length > end:
                    break
                at = begin + length
                frames.append(Frame(opcode, bytes(unread[begin:at])))
            else:
                # What is wrong is told as soon as it can be: its sender may never send the rest.
                if at + U32.size <= end:
                    version_at = at + U32.size
                    self._check(
                        U32.unpack_from(unread, at)[0], unread[version_at] if version_at < end else MAJOR
                    )
        if at:
            del self._unread[:at]
        return frames

    def _check(self, length: int, major: int) -> None:
        if not HEADER_SIZE <= length <= self._max_size:
            raise FramingError(f"request of {length} bytes (4 to {self._max_size} are accepted)")
        if major != MAJOR:
            raise FramingError(f"protocol version {major} (only {MAJOR} is known)")


def pack_request(opcode: int, arguments: bytes) -> bytes:
    return _LENGTH_AND_VERSION.pack(HEADER_SIZE + len(arguments), MAJOR, MINOR, opcode) + arguments


class Pieces(NamedTuple):
    """Bytes that need not be joined to be sent; `size` is that of all together."""

    size: int
    pieces: list[bytes]

    def __repr__(self) -> str:
        # They may be whole credentials.
        return f"<Pieces of {self.size} bytes>"


Sendable = bytes | Pieces

# In bytes: up to here, joining pieces costs less than handing each one to the kernel. Longer ones are mostly
# others' memory (a ccache's credentials), of which no copy is made, however long a client takes to read.
_JOINED_UP_TO = 32 * 1024


def pack_reply(code: int, payload: Sendable = b"") -> Sendable:
    """The reply, in pieces where the payload is long and in pieces."""
    if isinstance(payload, bytes):
        return _REPLY.pack(4 + len(payload), 0, code) + payload
    header = _REPLY.pack(4 + payload.size, 0, code)
    pieces = [header, *payload.pieces]
    if payload.size <= _JOINED_UP_TO:
        return b"".join(pieces)
    return Pieces(len(header) + payload.size, pieces)
