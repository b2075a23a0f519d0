"""Principals, credentials and peers for the tests.

Credentials are put together here from the documented layout (ccache file format 4), and not by pykcm's own
packing: what the tests compare with must not come from what they test.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from struct import pack

import pytest

from pykcm.peer.identity import Peer
from pykcm.protocol.codes import KcmError, name_of
from pykcm.protocol.credential import Credential, parse_credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag

REALM = b"PYKCM.TEST"


class Clock:
    """A clock that shows `now`, in seconds since the epoch; tests change it."""

    def __init__(self, now: float = 1500) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


TypedList = Sequence[tuple[int, bytes]]


def principal(text: str, name_type: int = 1) -> Principal:
    """Return the principal of a text such as `host/www@REALM`; the default realm is PYKCM.TEST."""
    components, at, realm = text.partition("@")
    return Principal(name_type, realm.encode() if at else REALM, tuple(components.encode().split(b"/")))


def changed(
    principal: Principal,
    *,
    name_type: int | None = None,
    realm: bytes | None = None,
    components: tuple[bytes, ...] | None = None,
) -> Principal:
    """The principal with other values in some fields."""
    return Principal(
        principal.name_type if name_type is None else name_type,
        principal.realm if realm is None else realm,
        principal.components if components is None else components,
    )


ALICE = principal("alice")
BOB = principal("bob")
# The latest endtime of a ticket: the reaper does not remove it during a test.
LAST_SECOND = 2**32 - 1

TGS = principal("krbtgt/PYKCM.TEST", name_type=2)
HTTP = principal("HTTP/www.pykcm.test", name_type=3)


def data(value: bytes) -> bytes:
    return pack(">I", len(value)) + value


def principal_bytes(value: Principal) -> bytes:
    head = pack(">II", value.name_type, len(value.components))
    return head + data(value.realm) + b"".join(map(data, value.components))


def typed_list(entries: TypedList) -> bytes:
    """Encode a list of addresses or authdata."""
    return pack(">I", len(entries)) + b"".join(pack(">H", kind) + data(value) for kind, value in entries)


def credential_bytes(
    server: Principal = TGS,
    client: Principal = ALICE,
    *,
    enctype: int = 18,
    key: bytes = b"session key",
    times: tuple[int, int, int, int] = (1000, 1000, LAST_SECOND, LAST_SECOND),
    is_skey: bool = False,
    flags: int = 0x40E10000,
    addresses: TypedList = (),
    authdata: TypedList = (),
    ticket: bytes = b"ticket",
    second_ticket: bytes = b"",
) -> bytes:
    return b"".join(
        [
            principal_bytes(client),
            principal_bytes(server),
            pack(">h", enctype) + data(key),
            pack(">IIII", *times),
            pack(">B", is_skey),
            pack(">I", flags),
            typed_list(addresses),
            typed_list(authdata),
            data(ticket),
            data(second_ticket),
        ]
    )


def credential(
    server: Principal = TGS,
    client: Principal = ALICE,
    *,
    is_skey: bool = False,
    ticket: bytes = b"ticket",
    second_ticket: bytes = b"",
) -> Credential:
    return parse_credential(
        credential_bytes(server, client, is_skey=is_skey, ticket=ticket, second_ticket=second_ticket)
    )


def credential_of_size(size: int, server: Principal = TGS) -> Credential:
    """Return a credential of this number of bytes."""
    smallest = len(credential_bytes(server, ticket=b""))
    return credential(server, ticket=bytes(size - smallest))


def ticket(
    server: Principal = TGS, *, ends: int = 2000, issued: int = 1000, size: int = 200, authtime: int = 1000
) -> Credential:
    """Return a ticket of this number of bytes; `issued` is its starttime, or 0."""
    times = (authtime, issued, ends, 0)
    smallest = len(credential_bytes(server, times=times, ticket=b""))
    return parse_credential(credential_bytes(server, times=times, ticket=bytes(size - smallest)))


def service(number: int) -> Principal:
    """Return the principal of one of many services."""
    return principal(f"host/h{number}.pykcm.test", name_type=3)


def tgs(number: int) -> Principal:
    """Return the ticket-granting service of one of many other realms."""
    return principal(f"krbtgt/R{number}.TEST", name_type=2)


def tag_for(server: Principal) -> Tag:
    """Return a tag that matches the credentials of this server, for any client."""
    return Tag(server=server)


def configuration(key: bytes, value: bytes) -> Credential:
    """Return a configuration entry of libkrb5: endtime 0, and the value in place of the ticket."""
    server = Principal(0, b"X-CACHECONF:", (b"krb5_ccache_conf_data", key))
    return parse_credential(
        credential_bytes(server, enctype=0, key=b"", times=(0, 0, 0, 0), flags=0, ticket=value)
    )


def file_bytes(
    *credentials: bytes, version: int = 4, tags: bytes = b"", principal: Principal = ALICE
) -> bytes:
    """A ccache file of this format version; `tags`: of the header that only version 4 has."""
    header = pack(">H", len(tags)) + tags if version == 4 else b""
    return bytes([5, version]) + header + principal_bytes(principal) + b"".join(credentials)


def file_tag(number: int, value: bytes) -> bytes:
    """A tag in the header of a ccache file."""
    return pack(">HH", number, len(value)) + value


def offset_tag(seconds: int) -> bytes:
    """The header tag of a KDC offset."""
    return file_tag(1, pack(">ii", seconds, 250_000))


# PIDs end at 2**22 (PID_MAX_LIMIT): trace finds no program, whichever processes there are.
PID_OF_NOBODY = 2**22 + 4711


def peer(uid: int) -> Peer:
    return Peer(uid=uid, gid=uid, pid=PID_OF_NOBODY, label=None)


@contextmanager
def refused(code: int) -> Iterator[None]:
    """Check that the `with` block raises KcmError with this code."""
    with pytest.raises(KcmError) as caught:
        yield
    assert name_of(caught.value.code) == name_of(code)
