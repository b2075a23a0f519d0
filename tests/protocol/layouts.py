"""The protocol's layouts put together by hand, for tests to compare the package with.

Deliberately none of the package's own packing: these follow the protocol's description alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack

from tests.builders import TypedList, data, typed_list


def u16(value: int) -> bytes:
    return pack(">H", value)


def u32(value: int) -> bytes:
    return pack(">I", value)


def i32(value: int) -> bytes:
    return pack(">i", value)


def name(value: bytes) -> bytes:
    return value + b"\0"


def principal(realm: bytes, *components: bytes, name_type: int = 1) -> bytes:
    return u32(name_type) + u32(len(components)) + data(realm) + b"".join(map(data, components))


def keyblock(enctype: int, key: bytes) -> bytes:
    return pack(">h", enctype) + data(key)


def blobs(values: Sequence[bytes]) -> bytes:
    """The credentials of GET_CRED_LIST and REPLACE."""
    return u32(len(values)) + b"".join(map(data, values))


def frame(message: bytes) -> bytes:
    """A request: `message` is version, opcode and arguments."""
    return u32(len(message)) + message


def request(opcode: int, arguments: bytes = b"") -> bytes:
    return frame(b"\2\0" + u16(opcode) + arguments)


REALM = b"EXAMPLE.TEST"
ALICE = principal(REALM, b"alice")
BOB = principal(REALM, b"bob")
HOST = principal(REALM, b"host", b"www.example.test", name_type=3)
AES256 = 18


@dataclass(frozen=True, kw_only=True)
class CredentialFields:
    """A credential in ccache file format 4, field by field; principals are packed already."""

    client: bytes = ALICE
    server: bytes = HOST
    enctype: int = AES256
    key: bytes = b"a session key of thirty-two byte"
    authtime: int = 1_790_000_000
    starttime: int = 1_790_000_100
    endtime: int = 1_790_036_000
    renew_till: int = 1_790_600_000
    is_skey: int = 0
    flags: int = 0x40E10000
    addresses: TypedList = ()
    authdata: TypedList = ()
    ticket: bytes = b"a ticket"
    second_ticket: bytes = b""

    def pack(self) -> bytes:
        return b"".join([
            self.client,
            self.server,
            keyblock(self.enctype, self.key),
            *map(u32, (self.authtime, self.starttime, self.endtime, self.renew_till)),
            bytes([self.is_skey]),
            u32(self.flags),
            typed_list(self.addresses),
            typed_list(self.authdata),
            data(self.ticket),
            data(self.second_ticket),
        ])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TagFields:
    """A matching credential; None: the header does not name the field."""

    client: bytes | None = None
    server: bytes | None = None
    keyblock: tuple[int, bytes] | None = None
    authtime: int = 0
    starttime: int = 0
    endtime: int = 0
    renew_till: int = 0
    is_skey: int = 0
    flags: int = 0
    addresses: TypedList | None = None
    authdata: TypedList | None = None
    ticket: bytes | None = None
    second_ticket: bytes | None = None

    @property
    def header(self) -> int:
        named = (
            (1, self.client),
            (2, self.server),
            (4, self.keyblock),
            (8, self.ticket),
            (0x10, self.second_ticket),
            (0x20, self.authdata),
            (0x40, self.addresses),
        )
        return sum(bit for bit, field in named if field is not None)

    def pack(self) -> bytes:
        return b"".join([
            u32(self.header),
            self.client or b"",
            self.server or b"",
            b"" if self.keyblock is None else keyblock(*self.keyblock),
            *map(u32, (self.authtime, self.starttime, self.endtime, self.renew_till)),
            bytes([self.is_skey]),
            u32(self.flags),
            b"" if self.addresses is None else typed_list(self.addresses),
            b"" if self.authdata is None else typed_list(self.authdata),
            b"" if self.ticket is None else data(self.ticket),
            b"" if self.second_ticket is None else data(self.second_ticket),
        ])  # fmt: skip
