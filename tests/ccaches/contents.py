"""Collections for the tests, and their contents as one value that can be compared."""

import errno
from collections.abc import Callable
from typing import NamedTuple

import pytest

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import CCacheCount, Quotas
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, Clock, principal_bytes, ticket

PRINCIPAL_SIZE = len(principal_bytes(ALICE))

# The credentials of ccaches at the time 1500.
VALID, EXPIRED, LONG_EXPIRED = [ticket(ends=2000)], [ticket(ends=1400)], [ticket(ends=1300)]


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


def create(collection: Collection, *wanted: bytes) -> None:
    """Initialise these ccaches."""
    for name in wanted:
        collection.initialize(name, ALICE, None)


def collection_of(
    ccaches: dict[bytes, list[Credential]], quotas: Quotas, total: int | None = None
) -> Collection:
    """A collection of UID 1000 with these ccaches, whatever the quotas."""
    filled = Collection(1000, Clock())
    for name, credentials in ccaches.items():
        filled.replace(name, ALICE, 0, credentials, None)
    collection = Collection(1000, Clock(), quotas, CCacheCount(total))
    collection.restore(list(filled))
    return collection


def servers(collection: Collection, name: bytes = b"1000") -> list[Principal]:
    return [credential.server for credential in existing(collection, name).credentials]


def assert_refused(
    collection: Collection, attempt: Callable[[], object], option: str = "", owner: str = ""
) -> None:
    """The attempt is EDQUOT, names option and owner, and has changed nothing."""
    before = contents(collection)
    with pytest.raises(KcmError) as caught:
        attempt()
    assert caught.value.code == errno.EDQUOT
    assert option in caught.value.reason
    assert owner in caught.value.reason
    assert contents(collection) == before
    assert collection.take_changes() == []
