"""Principals, as in the protocol and in ccache file format 4."""

from struct import Struct
from typing import NamedTuple

from pykcm.protocol.text import escape_in_principal
from pykcm.protocol.wire import U32, FormatError, Reader, pack_data

# name type, number of components, length of the realm
_HEADER = Struct(">III")

_TGS_COMPONENT = b"krbtgt"


# Realm and components. Principals are equal if these are: the name type never counts.
Identity = tuple[bytes, tuple[bytes, ...]]


def has_pseudo_realm(server: Identity) -> bool:
    """Whether the server's realm is a pseudo-realm, with which programs keep their own data in a ccache.

    Examples are libkrb5's X-CACHECONF: and X-RMED-CONF:, and gssproxy's X-GSSPROXY:. Each is a prefix that
    RFC 4120 reserves for realms of other name systems, without a name after it. No KDC has such a realm.
    """
    realm = server[0]
    return realm.startswith(b"X-") and realm.endswith(b":")


def is_tgs(server: Identity) -> bool:
    """Whether a ticket for this server is a TGT, of its own realm or of another one."""
    return server[1][:1] == (_TGS_COMPONENT,)


class Principal(NamedTuple):
    """A principal: `name_type` is KRB5_NT_*, realm and components are any bytes."""

    name_type: int
    realm: bytes
    components: tuple[bytes, ...]

    @property
    def identity(self) -> Identity:
        return self[1:]

    def pack(self) -> bytes:
        parts = [U32.pack(self.name_type), U32.pack(len(self.components)), pack_data(self.realm)]
        parts += map(pack_data, self.components)
        return b"".join(parts)

    def __str__(self) -> str:
        """`host/www.example.test@EXAMPLE.TEST`, quoted as libkrb5 does, with unprintable bytes escaped."""
        return "/".join(map(escape_in_principal, self.components)) + "@" + escape_in_principal(self.realm)


def read_principal(reader: Reader) -> Principal:
    # See read_tag.
    return tuple.__new__(Principal, _read(reader))


def read_identity(reader: Reader) -> Identity:
    """A principal without its name type."""
    return _read(reader)[1:]


def _read(reader: Reader) -> tuple[int, bytes, tuple[bytes, ...]]:
    # Each request and credential has one or two principals: local variables are faster than the reader.
    buffer, at, end = reader.buffer, reader.at, reader.end
    if at + _HEADER.size > end:
        raise FormatError("principal ends early")
    name_type, count, size = _HEADER.unpack_from(buffer, at)
    if count > reader.max_components:
        raise FormatError(f"principal of {count} components (at most {reader.max_components} are accepted)")
    reader.elements += count
    at += _HEADER.size
    after = at + size
    realm = buffer[at:after]
    components = []
    for _ in range(count):
        at = after + U32.size
        if at > end:
            raise FormatError("principal ends early")
        after = at + U32.unpack_from(buffer, after)[0]
        components.append(buffer[at:after])
    if after > end:
        raise FormatError("principal ends early")
    if after - reader.at > reader.max_principal_size:
        raise FormatError(f"principal of more than {reader.max_principal_size} bytes")
    reader.at = after
    return name_type, realm, tuple(components)
