"""The tree of secrets: containers and secrets by path.

    /kcm/persistent/<uid>                           container of a UID
        default                                     secret: the default ccache
        ccaches                                     container
            <uuid>-<name>                           secret: a ccache without its credentials
            <uuid>-<name>                           container of the same name
                <uuid>                              secret: a credential, the blob that the client sent

UUIDs are in hexadecimal. A ccache's name may be any bytes and is percent-encoded: a path is plain text, and
its slashes only separate its parts.
"""

import re
from functools import lru_cache
from typing import NamedTuple

import msgspec

_ROOT = "/kcm/persistent/"
_CCACHES = "/ccaches"

DEFAULT = "default"

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:._-@")
_CCACHE_NAME = re.compile(r"([0-9a-f]{32})-((?:[a-zA-Z0-9:._@-]|%[0-9A-F]{2})*)", re.ASCII)
_UID = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ENCODED = [chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in range(256)]


class Secret(NamedTuple):
    """A stored secret: a value in the container of this path, under this name.

    `expires`, in seconds since the epoch, is the expiry of a ccache; None: never. `damage`: why the store
    cannot read the value, which is empty then.
    """

    container: str
    name: str
    value: bytes
    expires: int | None = None
    damage: str = ""

    def __repr__(self) -> str:
        return f"<Secret {self.container}/{self.name}>"


class Put(NamedTuple):
    """Write a secret at the end of its container, or in place of the one with this name."""

    container: str
    name: str
    value: bytes
    expires: int | None = None

    def __repr__(self) -> str:
        return f"<Put {self.container}/{self.name}>"


class Delete(msgspec.Struct, frozen=True):
    """Delete a secret."""

    container: str
    name: str


class DeleteContainer(msgspec.Struct, frozen=True):
    """Delete a container with everything in it, except the containers below it."""

    container: str


class RenameContainer(msgspec.Struct, frozen=True):
    """Give a container with everything in it, except the containers below it, another path.

    No container may have the new path. A missing container stays missing. Both paths are those of ccaches'
    containers of credentials.
    """

    container: str
    path: str


SecretChange = Put | Delete | DeleteContainer | RenameContainer


class Expired(NamedTuple):
    """A secret that has expired. The order of expired secrets is that of these fields."""

    expires: int
    name: str
    uid: int


def uid_container(uid: int) -> str:
    return f"{_ROOT}{uid}"


def ccaches_container(uid: int) -> str:
    return f"{_ROOT}{uid}{_CCACHES}"


def ccache_name(uuid: bytes, name: bytes) -> str:
    """Return the name of a ccache's secret."""
    return f"{uuid.hex()}-{''.join([_ENCODED[byte] for byte in name])}"


@lru_cache(512)  # each credential that is stored or removed needs the path of its ccache
def ccache_container(uid: int, uuid: bytes, name: bytes) -> str:
    """Return the path of the container that holds a ccache's credentials."""
    return f"{_ROOT}{uid}{_CCACHES}/{ccache_name(uuid, name)}"


def split_ccache_name(secret_name: str) -> tuple[bytes, bytes]:
    """Return UUID and name of a ccache from its secret's name; raises ValueError."""
    match = _CCACHE_NAME.fullmatch(secret_name)
    if match is None:
        raise ValueError("not the name of a ccache's secret")
    first, *others = match[2].split("%")
    name = first.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in others)
    uuid = bytes.fromhex(match[1])
    # With another spelling of the name, the container of its credentials would not be found.
    if ccache_name(uuid, name) != secret_name:
        raise ValueError("not the name of a ccache's secret")
    return uuid, name


def credential_uuid(secret_name: str) -> bytes:
    """Return the UUID of a credential from its secret's name; raises ValueError."""
    if _UUID.fullmatch(secret_name) is None:
        raise ValueError("not the name of a credential's secret")
    return bytes.fromhex(secret_name)


def uid_of_container(path: str) -> int | None:
    """Return the UID whose container has this path or is above it; None for any other path."""
    if not path.startswith(_ROOT):
        return None
    digits = path[len(_ROOT) :].partition("/")[0]
    return int(digits) if _UID.fullmatch(digits) else None


def is_ccaches_container(path: str) -> bool:
    """Whether the container of this path holds ccaches."""
    return path.endswith(_CCACHES)
