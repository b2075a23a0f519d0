"""Requests out of a byte stream, and replies into one.

A request is `u32 length`, then as many bytes: `u8 major, u8 minor, u16 opcode`, arguments. A reply is
`u32 length, u32 outer status`, then as many bytes: `i32 code`, payload. The outer status is always 0:
MIT's client stops reading when it is not, and the stream would be out of step.
"""

from struct import Struct
from sys import getsizeof
from typing import NamedTuple

from pykcm.protocol.wire import U32

MAJOR = 2
MINOR = 0
HEADER_SIZE = 4

# MIT's client refuses a longer reply (KCM's MAX_REPLY_SIZE in libkrb5's cc_kcm.c), counted like the length.
MAX_REPLY_SIZE = 10 * 1024 * 1024

_LENGTH_AND_VERSION = Struct(">IBBH")
_REPLY = Struct(">IIi")

# Looked up at each request.
_unpack_head = _LENGTH_AND_VERSION.unpack_from
_SMALLEST = _LENGTH_AND_VERSION.size


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
    """Cuts frames out of a stream, whatever pieces it comes in, one at a time.

    Bytes stay as they came until their frame is asked for. A length that is only announced costs no memory.
    `max_size` is the greatest length accepted, in bytes.
    """

    __slots__ = ("_max_size", "_unread")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._unread: bytearray | None = None

    @property
    def size(self) -> int:
        """Bytes that have come and are in no frame yet."""
        return 0 if self._unread is None else len(self._unread)

    @property
    def memory(self) -> int:
        """Bytes of memory that they take."""
        return 0 if self._unread is None else getsizeof(self._unread)

    @property
    def missing(self) -> int:
        """Bytes that the frame which has begun still lacks, as far as that is known."""
        if self._unread is None or len(self._unread) < U32.size:
            return 0
        return max(0, U32.size + int(U32.unpack_from(self._unread)[0]) - len(self._unread))

    @property
    def has_next(self) -> bool:
        """Whether `next_frame` has a frame, or an error to raise."""
        if self._unread is None:
            return False
        try:
            return self._measure(self._unread) > 0
        except FramingError:
            return True

    def take(self, data: bytes | memoryview) -> Frame | None:
        """Take in bytes; gives the first frame if it is whole now. Raises FramingError."""
        if self._unread is None:
            size = len(data)
            if size >= _SMALLEST:
                # Nearly always the data is one frame, neither more nor less.
                length, major, _, opcode = _unpack_head(data)
                if length == size - 4 <= self._max_size and major == MAJOR:
                    return Frame(opcode, bytes(data[4:]))
            elif not size:
                return None
            self._unread = bytearray(data)
        else:
            self._unread += data
        return self.next_frame()

    def next_frame(self) -> Frame | None:
        """The first frame, if it is whole. Raises FramingError, after which there is no going on."""
        unread = self._unread
        if unread is None or not (end := self._measure(unread)):
            return None
        opcode = _LENGTH_AND_VERSION.unpack_from(unread)[3]
        with memoryview(unread) as view:
            message = bytes(view[U32.size : end])
        if end == len(unread):
            self._unread = None
        else:
            # From the front this moves the rest only once in a while.
            del unread[:end]
        return Frame(opcode, message)

    def _measure(self, unread: bytearray) -> int:
        """Where the first frame ends; 0 while it is not whole. Raises FramingError as soon as it is one."""
        if len(unread) < U32.size:
            return 0
        length = int(U32.unpack_from(unread)[0])
        if not HEADER_SIZE <= length <= self._max_size:
            raise FramingError(f"request of {length} bytes (4 to {self._max_size} are accepted)")
        if len(unread) > U32.size and unread[U32.size] != MAJOR:
            raise FramingError(f"protocol version {unread[U32.size]} (only {MAJOR} is known)")
        end = U32.size + length
        return end if end <= len(unread) else 0


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
