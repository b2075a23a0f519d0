"""Framing: requests from a byte stream, and replies into one.

A request is `u32 length`, then as many bytes: `u8 major, u8 minor, u16 opcode`, arguments. A reply is
`u32 length, u32 outer status`, then as many bytes: `i32 code`, payload. The outer status is always 0.
Otherwise MIT's client stops reading, and takes the rest for the next reply.
"""

from struct import Struct
from sys import getsizeof

import msgspec

from pykcm.protocol.wire import U32

MAJOR = 2
MINOR = 0
HEADER_SIZE = 4

# MIT's client refuses a longer reply (KCM's MAX_REPLY_SIZE in libkrb5's cc_kcm.c), counted like the length.
MAX_REPLY_SIZE = 10 * 1024 * 1024

_LENGTH_AND_VERSION = Struct(">IBBH")
_REPLY = Struct(">IIi")

# Global names, because each request uses them.
_unpack_head = _LENGTH_AND_VERSION.unpack_from
_SMALLEST = _LENGTH_AND_VERSION.size


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One complete request; its packed arguments begin at `HEADER_SIZE` of `message`."""

    opcode: int
    message: bytes

    def __repr__(self) -> str:
        # The message may hold a session key.
        return f"<Frame of operation {self.opcode}, {len(self.message)} bytes>"


class FramingError(Exception):
    """The rest of the stream cannot be understood: close the connection."""


class FrameReader:
    """Cuts frames out of a stream, one at a time, whatever pieces the stream arrives in.

    Bytes stay as they are until their frame is requested. A length that is only announced costs no memory.
    `max_size`: the greatest accepted length, in bytes. `unread`: the received bytes that are in no frame yet;
    None: there are none.
    """

    __slots__ = ("_max_size", "unread")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self.unread: bytearray | None = None

    @property
    def size(self) -> int:
        """Received bytes that are in no frame yet."""
        return 0 if self.unread is None else len(self.unread)

    @property
    def memory(self) -> int:
        """Bytes of memory that they take up."""
        return 0 if self.unread is None else getsizeof(self.unread)

    @property
    def missing(self) -> int:
        """Bytes that the unfinished frame lacks, as far as this is known."""
        if self.unread is None or len(self.unread) < U32.size:
            return 0
        return max(0, U32.size + int(U32.unpack_from(self.unread)[0]) - len(self.unread))

    @property
    def has_next(self) -> bool:
        """Whether `next_frame` has a frame, or an error to raise."""
        if self.unread is None:
            return False
        try:
            return self._measure(self.unread) > 0
        except FramingError:
            return True

    def take(self, data: bytes) -> Frame | None:
        """Add bytes; return the first frame if it is complete now. Raises FramingError."""
        if self.unread is None:
            size = len(data)
            if size >= _SMALLEST:
                # Nearly always the data is exactly one frame.
                length, major, _, opcode = _unpack_head(data)
                if length == size - 4 <= self._max_size and major == MAJOR:
                    return Frame(opcode, data[4:])
            elif not size:
                return None
            self.unread = bytearray(data)
        else:
            self.unread += data
        return self.next_frame()

    def next_frame(self) -> Frame | None:
        """Return the first frame if it is complete. Raises FramingError, and then the stream is unusable."""
        unread = self.unread
        if unread is None or not (end := self._measure(unread)):
            return None
        opcode = _LENGTH_AND_VERSION.unpack_from(unread)[3]
        with memoryview(unread) as view:
            message = bytes(view[U32.size : end])
        if end == len(unread):
            self.unread = None
        else:
            # A bytearray moves the rest only now and then when its front is deleted.
            del unread[:end]
        return Frame(opcode, message)

    def _measure(self, unread: bytearray) -> int:
        """Return the end of the first frame; 0 while it is incomplete. Raises FramingError."""
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


class Pieces(msgspec.Struct, frozen=True):
    """Bytes that are sent without being joined; `size`: their total."""

    size: int
    pieces: list[bytes]

    def __repr__(self) -> str:
        # They may be complete credentials.
        return f"<Pieces of {self.size} bytes>"


Sendable = bytes | Pieces

# In bytes. Up to this size, joining the pieces costs less than passing each one to the kernel. Larger
# payloads are mostly a ccache's credentials: they are never copied, however long a client takes to read.
_JOINED_UP_TO = 32 * 1024


def pack_reply(code: int, payload: Sendable = b"") -> Sendable:
    """Return the reply, in pieces if the payload is in pieces and large."""
    if isinstance(payload, bytes):
        return _REPLY.pack(4 + len(payload), 0, code) + payload
    header = _REPLY.pack(4 + payload.size, 0, code)
    pieces = [header, *payload.pieces]
    if payload.size <= _JOINED_UP_TO:
        return b"".join(pieces)
    return Pieces(len(header) + payload.size, pieces)
