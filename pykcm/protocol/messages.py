"""What each operation's request and reply carry: one table for the server's reading and the client's writing.

A request's layout is a tuple of fields, read in order into the arguments of the operation. Clients add
bytes behind the last field now and then (Heimdal's does); they are left unread.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pykcm.protocol.credential import Credential, parse_credential, read_credential
from pykcm.protocol.framing import HEADER_SIZE, Frame, Pieces
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal, read_principal
from pykcm.protocol.tag import Tag, read_tag
from pykcm.protocol.wire import I32, U32, UUID_SIZE, FormatError, Reader, pack_name

# The most that one REPLACE may hold: more credentials than any client sends at once, and for each of them
# more components, addresses and authdata than tickets have. It is one step, and everybody waits for it: that
# many of the smallest credentials take about 20 ms.
MAX_CREDENTIALS = 1024
MAX_ELEMENTS = 16 * MAX_CREDENTIALS


class Field(NamedTuple):
    """How a value is read from a message and written into one."""

    read: Callable[[Reader], Any]
    pack: Callable[[Any], bytes]


def _read_blob(reader: Reader) -> Credential:
    return parse_credential(reader.rest())


def _pack_blob(blob: bytes) -> bytes:
    return blob


def _read_i32(reader: Reader) -> int:
    value: int = reader.unpack(I32)[0]
    return value


def _read_uuid(reader: Reader) -> bytes:
    return reader.take(UUID_SIZE)


def _read_uuids(reader: Reader) -> list[bytes]:
    packed = reader.rest()
    if len(packed) % UUID_SIZE:
        raise FormatError("not a whole number of UUIDs")
    return [packed[at : at + UUID_SIZE] for at in range(0, len(packed), UUID_SIZE)]


def _read_blobs(reader: Reader) -> list[bytes]:
    return [reader.data() for _ in range(_bounded_count(reader))]


def _read_credentials(reader: Reader) -> list[Credential]:
    count = _bounded_count(reader)
    if count > MAX_CREDENTIALS:
        raise FormatError(f"{count} credentials (at most {MAX_CREDENTIALS} are accepted)")
    credentials = []
    elements = 0
    for _ in range(count):
        within = Reader(reader.data())
        credentials.append(read_credential(within))
        elements += within.elements
        if elements > MAX_ELEMENTS:
            raise FormatError(
                f"credentials with more than {MAX_ELEMENTS} components, addresses and authdata together"
            )
    return credentials


def _bounded_count(reader: Reader) -> int:
    count = reader.u32()
    if count * U32.size > reader.end - reader.at:
        raise FormatError("more credentials than bytes")
    return count


def blobs_in_pieces(blobs: list[bytes]) -> Pieces:
    """`u32 count`, then `u32 length` and bytes each: the payload of GET_CRED_LIST."""
    pieces = [U32.pack(len(blobs))] * (1 + 2 * len(blobs))
    pieces[1::2] = list(map(U32.pack, map(len, blobs)))
    pieces[2::2] = blobs
    return Pieces(sum(map(len, pieces)), pieces)


def pack_blobs(blobs: list[bytes]) -> bytes:
    """The same in one piece."""
    return b"".join(blobs_in_pieces(blobs).pieces)


NAME = Field(Reader.name, pack_name)
PRINCIPAL = Field(read_principal, Principal.pack)
UUID = Field(_read_uuid, _pack_blob)
UUIDS = Field(_read_uuids, b"".join)
OFFSET = Field(_read_i32, I32.pack)
FLAGS = Field(Reader.u32, U32.pack)
TAG = Field(read_tag, Tag.pack)
CREDENTIAL = Field(_read_blob, _pack_blob)
CREDENTIALS = Field(_read_credentials, pack_blobs)
BLOB = Field(Reader.rest, _pack_blob)
BLOBS = Field(_read_blobs, pack_blobs)

ARGUMENTS: dict[int, tuple[Field, ...]] = {
    Opcode.NOOP: (),
    Opcode.GET_NAME: (NAME,),
    Opcode.RESOLVE: (NAME,),
    Opcode.GEN_NEW: (),
    Opcode.INITIALIZE: (NAME, PRINCIPAL),
    Opcode.DESTROY: (NAME,),
    Opcode.STORE: (NAME, CREDENTIAL),
    Opcode.RETRIEVE: (NAME, FLAGS, TAG),
    Opcode.GET_PRINCIPAL: (NAME,),
    Opcode.GET_CRED_UUID_LIST: (NAME,),
    Opcode.GET_CRED_BY_UUID: (NAME, UUID),
    Opcode.REMOVE_CRED: (NAME, FLAGS, TAG),
    Opcode.SET_FLAGS: (NAME, FLAGS),
    Opcode.MOVE_CACHE: (NAME, NAME),
    Opcode.GET_CACHE_UUID_LIST: (),
    Opcode.GET_CACHE_BY_UUID: (UUID,),
    Opcode.GET_DEFAULT_CACHE: (),
    Opcode.SET_DEFAULT_CACHE: (NAME,),
    Opcode.GET_KDC_OFFSET: (NAME,),
    Opcode.SET_KDC_OFFSET: (NAME, OFFSET),
    Opcode.GET_CRED_LIST: (NAME,),
    Opcode.REPLACE: (NAME, OFFSET, PRINCIPAL, CREDENTIALS),
}

# What a client reads from a successful reply; None: nothing.
PAYLOAD: dict[int, Field | None] = {
    **dict.fromkeys(ARGUMENTS),
    Opcode.GET_NAME: NAME,
    Opcode.GEN_NEW: NAME,
    Opcode.RETRIEVE: BLOB,
    Opcode.GET_PRINCIPAL: PRINCIPAL,
    Opcode.GET_CRED_UUID_LIST: UUIDS,
    Opcode.GET_CRED_BY_UUID: BLOB,
    Opcode.GET_CACHE_UUID_LIST: UUIDS,
    Opcode.GET_CACHE_BY_UUID: NAME,
    Opcode.GET_DEFAULT_CACHE: NAME,
    Opcode.GET_KDC_OFFSET: OFFSET,
    Opcode.GET_CRED_LIST: BLOBS,
}


def read_arguments(fields: tuple[Field, ...], message: bytes) -> list[Any]:
    """The arguments in a request's message (see Frame); raises FormatError."""
    reader = Reader(message, HEADER_SIZE)
    return [field.read(reader) for field in fields]


# The operations that MIT's client alone asks for, or in a way of its own.
MITS_OPCODES = frozenset({Opcode.RETRIEVE, Opcode.GET_CRED_LIST, Opcode.REPLACE})

# KCM_GC_CACHED: "do not ask a KDC". Heimdal's matching flags are all in the upper half of the word.
_GC_CACHED = 1


def shows_mits_client(frame: Frame) -> bool:
    """Whether this request, of one of MITS_OPCODES, comes from MIT's client; never raises."""
    if frame.opcode != Opcode.RETRIEVE:
        return True
    reader = Reader(frame.message, HEADER_SIZE)
    try:
        reader.name()
        return bool(reader.u32() & _GC_CACHED)
    except FormatError:
        return False


def pack_arguments(fields: tuple[Field, ...], values: tuple[Any, ...]) -> bytes:
    return b"".join([field.pack(value) for field, value in zip(fields, values, strict=True)])
