"""Bounds-checked reading and writing of the protocol's basic types.

Every length from outside is compared with the bytes that are present before anything is allocated. A wrong
length therefore costs nothing. Malformed data raises FormatError and no other exception.
"""

from struct import Struct
from typing import Any

from pykcm.protocol.codes import Code, KcmError

U32 = Struct(">I")
I32 = Struct(">i")

UUID_SIZE = 16

_ENTRY = Struct(">HI")

# The limits of one list or principal. No client reaches them. A message full of empty elements is refused by
# its count, and not after millions of steps. Data from the store has the limits of earlier versions.
MAX_LIST = 256
MAX_COMPONENTS = 32
MAX_PRINCIPAL_SIZE = 8 * 1024  # bytes, marshalled
MAX_STORED_LIST = 1024
MAX_STORED_COMPONENTS = 256


class FormatError(KcmError):
    """Malformed bytes; answered as KRB5_CC_FORMAT."""

    def __init__(self, reason: str) -> None:
        super().__init__(Code.CC_FORMAT, reason)


class Reader:
    """A cursor over one message: `at` is where the next read begins.

    `elements`: the number of principals' components and list entries so far. A message may repeat these often
    enough to make decoding slow.
    """

    __slots__ = ("at", "buffer", "elements", "end")

    max_list = MAX_LIST
    max_components = MAX_COMPONENTS
    max_principal_size = MAX_PRINCIPAL_SIZE

    def __init__(self, buffer: bytes, at: int = 0) -> None:
        self.buffer = buffer
        self.at = at
        self.end = len(buffer)
        self.elements = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        at = self.at
        after = at + size
        if after > self.end:
            raise FormatError("message ends early")
        self.at = after
        return self.buffer[at:after]

    def u32(self) -> int:
        at = self.at
        if at + 4 > self.end:
            raise FormatError("message ends early")
        self.at = at + 4
        value: int = U32.unpack_from(self.buffer, at)[0]
        return value

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Return the fields of a fixed layout."""
        at = self.at
        after = at + layout.size
        if after > self.end:
            raise FormatError("message ends early")
        self.at = after
        return layout.unpack_from(self.buffer, at)

    def data(self) -> bytes:
        """Return counted bytes: u32 length, then as many bytes."""
        return self.take(self.u32())

    def skip_data(self) -> None:
        """Skip counted bytes without a copy."""
        size = self.u32()
        if size > self.end - self.at:
            raise FormatError("message ends early")
        self.at += size

    def name(self) -> bytes:
        """Return the bytes before the next NUL, and skip the NUL."""
        at = self.at
        nul = self.buffer.find(0, at)
        if nul < 0:
            raise FormatError("name without NUL")
        self.at = nul + 1
        return self.buffer[at:nul]

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        at = self.at
        self.at = self.end
        return self.buffer[at:]

    def typed_list(self) -> bytes:
        """Return the bytes of an address or authdata list: u32 count, then u16 type and data each."""
        begin = self.at
        count = self.u32()
        if not count:
            return self.buffer[begin : self.at]
        if count > self.max_list:
            raise FormatError(f"list of {count} entries (at most {self.max_list} are accepted)")
        self.elements += count
        # A hostile message is full of these lists: local variables are faster.
        buffer, at, end = self.buffer, self.at, self.end
        for _ in range(count):
            after = at + _ENTRY.size
            if after > end:
                raise FormatError("message ends early")
            at = after + _ENTRY.unpack_from(buffer, at)[1]
        if at > end:
            raise FormatError("message ends early")
        self.at = at
        return buffer[begin:at]


class StoredReader(Reader):
    """A cursor over data from the store, also from versions that accepted more."""

    __slots__ = ()

    max_list = MAX_STORED_LIST
    max_components = MAX_STORED_COMPONENTS
    max_principal_size = 2**32


def pack_data(value: bytes) -> bytes:
    return U32.pack(len(value)) + value


def pack_name(value: bytes) -> bytes:
    if 0 in value:
        raise FormatError("a name cannot hold a NUL")
    return value + b"\0"
