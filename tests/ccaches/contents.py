"""Everything that a collection is, as one value that can be compared."""

from typing import NamedTuple

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.protocol.principal import Principal


class CCacheContents(NamedTuple):
    """One ccache, its credentials in stored order."""

    uuid: bytes
    name: bytes
    principal: Principal
    label: str | None
    kdc_offset: int
    expires: int | None
    credentials: tuple[tuple[bytes, bytes], ...]


class Contents(NamedTuple):
    """A collection, its ccaches in stored order."""

    default: bytes
    by_range: tuple[tuple[str, bytes], ...]
    destroyed: tuple[str | None, ...]
    unavailable: dict[bytes, bytes]
    ccaches: tuple[CCacheContents, ...]


def contents(collection: Collection) -> Contents:
    return Contents(
        collection.default_name,
        collection.defaults.by_range,
        tuple(
            filter(collection.is_destroyed, (None, *(range_ for range_, _ in collection.defaults.by_range)))
        ),
        dict(collection.unavailable),
        tuple(map(_ccache_contents, collection)),
    )


def _ccache_contents(ccache: CCache) -> CCacheContents:
    return CCacheContents(
        ccache.uuid,
        ccache.name,
        ccache.principal,
        ccache.label,
        ccache.kdc_offset,
        ccache.expires,
        tuple((uuid, credential.blob) for uuid, credential in ccache.credentials.items()),
    )


def names(collection: Collection) -> list[bytes]:
    return [ccache.name for ccache in collection]


def blobs(ccache: CCache) -> list[bytes]:
    return [credential.blob for credential in ccache.credentials]


def existing(collection: Collection, name: bytes) -> CCache:
    ccache = collection.get(name)
    assert ccache is not None
    return ccache
