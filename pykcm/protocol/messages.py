"""The layouts of requests and replies: one table, with which the server reads and the client writes.

The layout of a request is a tuple of fields. They are read in order into the arguments of the operation. Some
clients (Heimdal's) add bytes after the last field; these are ignored.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from pykcm.protocol.credential import Credential, parse_credential, read_credential
from pykcm.protocol.framing import HEADER_SIZE, Frame, Pieces
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal, read_principal
from pykcm.protocol.tag import Tag, read_tag
from pykcm.protocol.wire import I32, U32, UUID_SIZE, FormatError, Reader, pack_data, pack_name

# The limits of one REPLACE: more credentials than any client sends at once, and for each of them more
# components, addresses and authdata than tickets have. All clients wait while a REPLACE is read: this many
# minimal credentials take about 20 ms.
MAX_CREDENTIALS = 1024
MAX_ELEMENTS = 16 * MAX_CREDENTIALS


class Field(msgspec.Struct, frozen=True):
    """The reader and the writer of a value."""

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
        blob_reader = Reader(reader.data())
        credentials.append(read_credential(blob_reader))
        elements += blob_reader.elements
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
    """The same as one bytes object."""
    return b"".join(blobs_in_pieces(blobs).pieces)


NAME = Field(Reader.name, pack_name)
PRINCIPAL = Field(read_principal, Principal.pack)
UUID = Field(_read_uuid, _pack_blob)
UUIDS = Field(_read_uuids, b"".join)
OFFSET = Field(_read_i32, I32.pack)
FLAGS = Field(Reader.u32, U32.pack)
TAG = Field(read_tag, Tag.pack)
# The bytes of the credential that has to be in the ccache.
PRESENT = Field(Reader.data, pack_data)
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
    Opcode.RENEW: (NAME, PRESENT, CREDENTIAL),
}

# The payload of a successful reply; None: there is none.
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


def arguments_reader(fields: tuple[Field, ...]) -> Callable[[bytes], list[Any]]:
    """Return the function that reads these fields as `read_arguments` does."""
    if fields == (NAME,):
        # Most requests have a name and nothing else. Without a Reader they take 4 % less time.
        return _read_name
    readers = [field.read for field in fields]

    def read(message: bytes) -> list[Any]:
        reader = Reader(message, HEADER_SIZE)
        arguments = []
        # A comprehension would be a call of its own.
        for read_field in readers:
            arguments.append(read_field(reader))  # noqa: PERF401
        return arguments

    return read


def _read_name(message: bytes) -> list[Any]:
    nul = message.find(0, HEADER_SIZE)
    if nul < 0:
        raise FormatError("name without NUL")
    return [message[HEADER_SIZE:nul]]


# The operations that only MIT's client requests, or that it requests in its own way.
MITS_OPCODES = frozenset({Opcode.RETRIEVE, Opcode.GET_CRED_LIST, Opcode.REPLACE})

# KCM_GC_CACHED: "do not ask a KDC". Heimdal's match flags are all in the upper half of the word.
_GC_CACHED = 1


def shows_mits_client(frame: Frame) -> bool:
    """Whether this request for one of MITS_OPCODES comes from MIT's client; never raises."""
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
