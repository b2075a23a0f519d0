"""Credentials in ccache file format 4: the bytes as received, and the fields for matching and expiry.

The session key and the ticket are skipped and never copied: they are in `blob` only. So are the fields that
are rarely needed. There may be many thousands of credentials in memory. Their objects are therefore small,
not tracked by the garbage collector, and share equal parts.
"""

from functools import lru_cache
from struct import Struct
from typing import NamedTuple

import msgspec

from pykcm.protocol.principal import Identity, Principal, principal_of, read_identity, read_principal
from pykcm.protocol.wire import U32, Reader, StoredReader

ENCTYPE = Struct(">h")
# authtime, starttime, endtime, renew_till, is_skey, ticket flags
TIMES_AND_FLAGS = Struct(">IIIIBI")
_ENDTIME_AT = 2 * U32.size

NO_AUTHDATA = b"\0\0\0\0"


# Bytes of memory that a credential takes up in addition to its bytes and the copies of some of them, for its
# objects and index entries. Measured.
_OVERHEAD = 800


class Times(NamedTuple):
    """Seconds since the epoch, unsigned; 0: not set."""

    authtime: int
    starttime: int
    endtime: int
    renew_till: int


class Equality(msgspec.Struct, frozen=True, gc=False):
    """The fields in which a stored credential equals the new one that replaces it (STORE).

    `enctype`: the session key's. `authdata`: the packed list, NO_AUTHDATA if it is empty.
    """

    client: Identity
    server: Identity
    is_skey: bool
    enctype: int
    authdata: bytes
    second_ticket: bytes

    def __repr__(self) -> str:
        # A missing key of a dictionary is shown in the exception.
        return f"<Equality {principal_of(0, self.client)} for {principal_of(0, self.server)}>"


class Credential(msgspec.Struct, frozen=True, gc=False):
    """One credential; `blob`: exactly as the client sent it; `times_at`: where its times begin."""

    blob: bytes
    equality: Equality
    times_at: int

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes up in a ccache; this counts towards quotas."""
        equality = self.equality
        # The principals, at the beginning of the blob, are copied; the server's name once more, for an index.
        copied = self.times_at + len(equality.server) + len(equality.authdata) + len(equality.second_ticket)
        return len(self.blob) + copied + _OVERHEAD

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
        """When the ticket became valid: starttime, which may be unset if it equals authtime."""
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
    def ticket(self) -> bytes:
        """The ticket. It is not kept, because only few are looked at."""
        reader = StoredReader(self.blob)
        reader.at = self.times_at + TIMES_AND_FLAGS.size
        reader.typed_list()
        reader.typed_list()
        return reader.data()

    @property
    def authdata(self) -> bytes:
        return self.equality.authdata

    @property
    def second_ticket(self) -> bytes:
        return self.equality.second_ticket

    def __repr__(self) -> str:
        # The blob holds the session key: it must not reach a log through a traceback or a failed assertion.
        return f"<Credential {self.client} for {self.server}>"


def parse_credential(blob: bytes) -> Credential:
    """Parse a complete credential. Bytes after its last field belong to it and are kept.

    Some clients add such bytes, and they get back exactly what they stored.
    """
    return read_credential(Reader(blob))


def parse_stored_credential(blob: bytes) -> Credential:
    """Parse a credential that was accepted before, perhaps by an earlier version."""
    return read_credential(StoredReader(blob))


def read_credential(reader: Reader) -> Credential:
    """Parse a credential from an unused reader, which also counts its elements."""
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


# In bytes, marshalled: long principals from clients must not fill the cache of `_shared`.
_LONGEST_SHARED = 256


@lru_cache(1024)
def _shared(client: Identity) -> Identity:
    """Return one object for equal clients: nearly all credentials of a user have the same client."""
    return client
