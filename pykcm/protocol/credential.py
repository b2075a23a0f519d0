"""Credentials in ccache file format 4: the bytes as they came, and the fields that matching and expiry need.

The session key and the ticket are walked over and never copied out: they stay in `blob` alone. So do the
fields that are rarely asked for. There may be many thousands of credentials in memory: their objects are
small and unknown to the garbage collector, and what they have in common they share.
"""

from functools import lru_cache
from struct import Struct
from typing import NamedTuple

import msgspec

from pykcm.protocol.principal import Identity, Principal, read_identity, read_principal
from pykcm.protocol.wire import U32, Reader, StoredReader

ENCTYPE = Struct(">h")
# authtime, starttime, endtime, renew_till, is_skey, ticket flags
TIMES_AND_FLAGS = Struct(">IIIIBI")
_ENDTIME_AT = 2 * U32.size

NO_AUTHDATA = b"\0\0\0\0"


# Bytes of memory that a credential takes up beside its bytes and the copies of some of them: its objects and
# its places in a ccache's indexes, and those of each component of a principal. Measured.
_OVERHEAD = 800
_COMPONENT_OVERHEAD = 60


class Times(NamedTuple):
    """Seconds since the epoch, unsigned; 0 where not set."""

    authtime: int
    starttime: int
    endtime: int
    renew_till: int


class Equality(msgspec.Struct, frozen=True, gc=False):
    """STORE replaces a stored credential that equals the new one in these fields.

    `enctype` is the session key's; `authdata` is the packed list, NO_AUTHDATA when it is empty.
    """

    client: Identity
    server: Identity
    is_skey: bool
    enctype: int
    authdata: bytes
    second_ticket: bytes

    def __repr__(self) -> str:
        # As a key that is missing it may stand in an exception.
        return f"<Equality {Principal(0, *self.client)} for {Principal(0, *self.server)}>"


class Credential(msgspec.Struct, frozen=True, gc=False):
    """One credential: `blob` is what the client sent, byte for byte; `times_at` is where its times begin."""

    blob: bytes
    equality: Equality
    times_at: int

    @property
    def size(self) -> int:
        """Bytes of memory that it takes up in a ccache, about: what counts towards quotas."""
        equality = self.equality
        components = len(equality.client[1]) + len(equality.server[1])
        # The principals are at the beginning, and are copied.
        copied = self.times_at + len(equality.authdata) + len(equality.second_ticket)
        return len(self.blob) + copied + _COMPONENT_OVERHEAD * components + _OVERHEAD

    @property
    def client(self) -> Principal:
        return read_principal(StoredReader(self.blob))

    @property
    def server(self) -> Principal:
        reader = StoredReader(self.blob)
        read_principal(reader)
        return read_principal(reader)

    @property
    def enctype(self) -> int:
        return self.equality.enctype

    @property
    def times(self) -> Times:
        return Times(*TIMES_AND_FLAGS.unpack_from(self.blob, self.times_at)[:4])

    @property
    def endtime(self) -> int:
        endtime: int = U32.unpack_from(self.blob, self.times_at + _ENDTIME_AT)[0]
        return endtime

    @property
    def issued(self) -> int:
        """When the ticket began to be valid: starttime, which need not be set where it is authtime."""
        times = self.times
        return times.starttime or times.authtime

    @property
    def is_skey(self) -> bool:
        return self.equality.is_skey

    @property
    def flags(self) -> int:
        flags: int = TIMES_AND_FLAGS.unpack_from(self.blob, self.times_at)[5]
        return flags

    @property
    def authdata(self) -> bytes:
        return self.equality.authdata

    @property
    def second_ticket(self) -> bytes:
        return self.equality.second_ticket

    def __repr__(self) -> str:
        # The blob holds the session key: it must not reach a log by way of a traceback or a failed assertion.
        return f"<Credential {self.client} for {self.server}>"


def parse_credential(blob: bytes) -> Credential:
    """The credential that `blob` is, whole: bytes behind its last field belong to it and are kept.

    Clients add such bytes now and then; what they stored is what they get back.
    """
    return read_credential(Reader(blob))


def parse_stored_credential(blob: bytes) -> Credential:
    """The same of a credential that was accepted once, perhaps by an earlier version."""
    return read_credential(StoredReader(blob))


def read_credential(reader: Reader) -> Credential:
    """The same of a reader that has read nothing yet; it then knows how many elements there were."""
    client = read_identity(reader)
    if reader.at <= _LONGEST_SHARED:
        client = _shared(client)
    server = read_identity(reader)
    (enctype,) = reader.unpack(ENCTYPE)
    reader.skip_data()
    times_at = reader.at
    is_skey = reader.unpack(TIMES_AND_FLAGS)[4]
    reader.typed_list()
    authdata = reader.typed_list()
    reader.skip_data()
    if authdata == NO_AUTHDATA:
        authdata = NO_AUTHDATA
    second_ticket = reader.data()
    return Credential(
        reader.buffer, Equality(client, server, bool(is_skey), enctype, authdata, second_ticket), times_at
    )


# In bytes, marshalled: what comes from outside must not fill the memory of `_shared`.
_LONGEST_SHARED = 256


@lru_cache(1024)
def _shared(client: Identity) -> Identity:
    """The same object for the same client: a user's credentials nearly all name one."""
    return client
