"""Credentials in ccache file format 4: the bytes as they came, and the fields that matching and expiry need.

The session key and the tickets are walked over and never copied out: they stay in `blob` alone. The
second ticket is kept because two credentials may differ in nothing else.
"""

from struct import Struct
from typing import NamedTuple

from pykcm.protocol.principal import Identity, Principal, read_principal
from pykcm.protocol.wire import Reader

ENCTYPE = Struct(">h")
# authtime, starttime, endtime, renew_till, is_skey, ticket flags
TIMES_AND_FLAGS = Struct(">IIIIBI")

NO_AUTHDATA = b"\0\0\0\0"


class Times(NamedTuple):
    """Seconds since the epoch, unsigned; 0 where not set."""

    authtime: int
    starttime: int
    endtime: int
    renew_till: int


class Equality(NamedTuple):
    """STORE replaces a stored credential that equals the new one in these fields."""

    client: Identity
    server: Identity
    is_skey: bool
    enctype: int
    authdata: bytes
    second_ticket: bytes


class Credential(NamedTuple):
    """One credential, frozen: `blob` is what the client sent, byte for byte.

    `enctype` is the session key's; `authdata` is the packed list, NO_AUTHDATA when it is empty.
    """

    blob: bytes
    client: Principal
    server: Principal
    enctype: int
    times: Times
    is_skey: bool
    flags: int
    authdata: bytes
    second_ticket: bytes

    @property
    def equality(self) -> Equality:
        return Equality(
            self.client.identity,
            self.server.identity,
            self.is_skey,
            self.enctype,
            self.authdata,
            self.second_ticket,
        )

    def __repr__(self) -> str:
        # The blob holds the session key: it must not reach a log by way of a traceback or a failed assertion.
        return f"<Credential {self.client} for {self.server}>"


def read_credential(reader: Reader) -> Credential:
    """The credential that begins here; its `blob` ends with its last field."""
    begin = reader.at
    client = read_principal(reader)
    server = read_principal(reader)
    (enctype,) = reader.unpack(ENCTYPE)
    reader.skip_data()
    authtime, starttime, endtime, renew_till, is_skey, flags = reader.unpack(TIMES_AND_FLAGS)
    reader.typed_list()
    authdata = reader.typed_list()
    reader.skip_data()
    second_ticket = reader.data()
    return Credential(
        reader.buffer[begin : reader.at],
        client,
        server,
        enctype,
        Times(authtime, starttime, endtime, renew_till),
        bool(is_skey),
        flags,
        authdata,
        second_ticket,
    )


def parse_credential(blob: bytes) -> Credential:
    """The credential that `blob` is, whole: bytes behind it belong to it and are kept.

    Clients add bytes after the last field now and then; what they stored is what they get back.
    """
    credential = read_credential(Reader(blob))
    return credential if len(credential.blob) == len(blob) else credential._replace(blob=blob)
