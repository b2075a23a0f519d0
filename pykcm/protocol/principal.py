"""Principals, as in the protocol and in ccache file format 4."""

from collections.abc import Iterable
from struct import Struct

from pykcm.protocol.text import escape_in_principal
from pykcm.protocol.wire import U32, FormatError, Reader, pack_data

# name type, number of components, length of the realm
_HEADER = Struct(">III")

_TGS_COMPONENT = b"\0\0\0\6krbtgt"


# A principal as it is marshalled, without its name type: the number of components, the realm, the components.
# Principals are equal if these bytes are: the name type never counts.
Identity = bytes

_REALM_AT = 2 * U32.size


def _name_at(identity: Identity) -> int:
    """Where the components begin, with the length of the first one."""
    size: int = U32.unpack_from(identity, U32.size)[0]
    return _REALM_AT + size


def name_of(identity: Identity) -> bytes:
    """The components as they are marshalled, without the realm."""
    # As _name_at, without its call: each credential that is stored or removed passes here.
    return identity[_REALM_AT + U32.unpack_from(identity, U32.size)[0] :]


def has_pseudo_realm(server: Identity) -> bool:
    """Whether the server's realm is a pseudo-realm, with which programs keep their own data in a ccache.

    Examples are libkrb5's X-CACHECONF: and X-RMED-CONF:, and gssproxy's X-GSSPROXY:. Each is a prefix that
    RFC 4120 reserves for realms of other name systems, without a name after it. No KDC has such a realm.
    """
    # Behind an empty realm these bytes are the length of a component, and no component is so long.
    return server[_REALM_AT : _REALM_AT + 2] == b"X-" and server.endswith(b":", 0, _name_at(server))


def is_tgs(server: Identity) -> bool:
    """Whether a ticket for this server is a TGT, of its own realm or of another one."""
    # The first condition, which costs no call, is false for nearly all others.
    return _TGS_COMPONENT in server and server.startswith(_TGS_COMPONENT, _name_at(server))


class Principal:
    """A principal: `name_type` is KRB5_NT_*, realm and components are any bytes.

    It keeps the marshalled bytes: comparing is what happens to nearly all principals.
    """

    __slots__ = ("identity", "name_type")

    name_type: int
    identity: Identity

    def __init__(self, name_type: int, realm: bytes, components: Iterable[bytes]) -> None:
        packed = [pack_data(component) for component in components]
        self.name_type = name_type
        self.identity = U32.pack(len(packed)) + pack_data(realm) + b"".join(packed)

    @property
    def realm(self) -> bytes:
        return self.identity[_REALM_AT : _name_at(self.identity)]

    @property
    def components(self) -> tuple[bytes, ...]:
        components = []
        at = _name_at(self.identity)
        while at < len(self.identity):
            begin = at + U32.size
            at = begin + U32.unpack_from(self.identity, at)[0]
            components.append(self.identity[begin:at])
        return tuple(components)

    def pack(self) -> bytes:
        return U32.pack(self.name_type) + self.identity

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Principal):
            return NotImplemented
        return self.name_type == other.name_type and self.identity == other.identity

    def __hash__(self) -> int:
        return hash((self.name_type, self.identity))

    def __repr__(self) -> str:
        return f"Principal({self.name_type}, {self.realm!r}, {self.components!r})"

    def __str__(self) -> str:
        """`host/www.example.test@EXAMPLE.TEST`, quoted as libkrb5 does, with unprintable bytes escaped."""
        return "/".join(map(escape_in_principal, self.components)) + "@" + escape_in_principal(self.realm)


def principal_of(name_type: int, identity: Identity) -> Principal:
    principal = Principal.__new__(Principal)
    principal.name_type = name_type
    principal.identity = identity
    return principal


def read_principal(reader: Reader) -> Principal:
    begin = reader.at
    identity = read_identity(reader)
    return principal_of(U32.unpack_from(reader.buffer, begin)[0], identity)


def read_identity(reader: Reader) -> Identity:
    """A principal without its name type."""
    # Each request and credential has one or two principals: local variables are faster than the reader.
    buffer, at, end = reader.buffer, reader.at, reader.end
    after = at + _HEADER.size
    if after > end:
        raise FormatError("principal ends early")
    _, count, size = _HEADER.unpack_from(buffer, at)
    if count > reader.max_components:
        raise FormatError(f"principal of {count} components (at most {reader.max_components} are accepted)")
    reader.elements += count
    after += size
    for _ in range(count):
        if after + U32.size > end:
            raise FormatError("principal ends early")
        after += U32.size + U32.unpack_from(buffer, after)[0]
    if after > end:
        raise FormatError("principal ends early")
    if after - at > reader.max_principal_size:
        raise FormatError(f"principal of more than {reader.max_principal_size} bytes")
    reader.at = after
    return buffer[at + U32.size : after]
