"""Frames of the control socket: a length of 4 bytes (big-endian), and as many bytes of MessagePack.

The announced length bounds a frame, and its size and type bound its contents. msgspec refuses a wrong type,
and an array that is longer than the type allows, before it decodes the elements.
"""

from typing import Any, Generic, TypeVar

import msgspec

from pykcm.protocol.text import excerpt
from pykcm.protocol.wire import U32

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class FrameError(Exception):
    """The bytes are not an acceptable frame. The message says why, and quotes nothing of the frame."""


class FrameTypeError(Exception):
    """A frame is valid MessagePack, but not of the expected type; the message names the field."""


def encode(message: Any) -> bytes:
    """Return the message as a frame."""
    body = _encoder.encode(message)
    return U32.pack(len(body)) + body


class FrameType(Generic[T]):
    """Decodes the bodies of frames as one type; `largest`: in bytes, the largest body of this type."""

    def __init__(self, type_: type[T], largest: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._largest = largest

    def decode(self, body: bytes | msgspec.Raw) -> T:
        """Raises FrameError and FrameTypeError."""
        if memoryview(body).nbytes > self._largest:
            raise FrameError(f"larger than {self._largest} bytes")
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise FrameTypeError(excerpt(str(error))) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"no MessagePack: {type(error).__name__}") from None


class FrameReader:
    """Cuts a stream into frames. Frames stay packed until they are taken.

    `largest`: the most bytes of a frame's body. A longer frame is refused as soon as its length has come.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """Received bytes that were not taken yet."""
        return len(self._buffer)

    def has_frame(self) -> bool:
        """Whether a complete frame can be taken."""
        buffer = self._buffer
        return len(buffer) >= U32.size and len(buffer) >= U32.size + U32.unpack_from(buffer)[0]

    def limit(self, largest: int) -> None:
        """Limit the frames that were not taken yet; raises FrameError."""
        self._largest = largest
        self.check()

    def feed(self, data: bytes) -> None:
        """Add bytes of the stream; raises FrameError, and then no more may be added."""
        self._buffer += data
        self.check()

    def take(self) -> bytes:
        """Return the body of the first frame, which must be complete. The next one is not checked yet."""
        end = U32.size + U32.unpack_from(self._buffer)[0]
        with memoryview(self._buffer) as view:
            body = bytes(view[U32.size : end])
        del self._buffer[:end]
        return body

    def check(self) -> None:
        """Check the announced length of the first frame; raises FrameError."""
        if len(self._buffer) < U32.size:
            return
        length = U32.unpack_from(self._buffer)[0]
        if not length:
            raise FrameError("a frame without contents")
        if length > self._largest:
            raise FrameError(f"larger than {self._largest} bytes" if self._largest else "no frame may follow")
