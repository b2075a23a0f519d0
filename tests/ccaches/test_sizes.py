"""Sizes: quotas count about as many bytes as a ccache takes up in memory."""

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from pykcm.ccaches.collection import Collection
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, HTTP, Clock, credential_bytes, service

NUMBER = 500
NOBODY = Principal(0, b"", ())


def smallest(number: int) -> bytes:
    return credential_bytes(NOBODY, NOBODY, enctype=number, key=b"", ticket=b"")


def crowded(number: int) -> bytes:
    components = [b"%d" % each for each in range(number, number + 32)]
    return credential_bytes(Principal(1, b"R", tuple(components)), Principal(1, b"C", tuple(components)))


VARIANTS: dict[str, Callable[[int], bytes]] = {
    "smallest": smallest,
    "ordinary": lambda number: credential_bytes(service(number), ticket=bytes(1200)),
    "of one server": lambda number: credential_bytes(HTTP, enctype=number),
    "many components": crowded,
    "long principal": lambda number: credential_bytes(Principal(1, b"R" * 4000, (b"%d" % number,))),
    "authdata": lambda number: credential_bytes(service(number), authdata=[(1, b"x" * 2000)]),
    "second ticket": lambda number: credential_bytes(service(number), second_ticket=b"x" * 2000),
}


def memory_of(fill: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes that the objects which `fill` gives take up, and those objects."""
    gc.collect()
    tracemalloc.start()
    try:
        filled = fill()
        gc.collect()
        return tracemalloc.get_traced_memory()[0], filled
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("variant", VARIANTS)
def test_size_of_credentials_is_near_their_memory(variant: str) -> None:
    """The size of a ccache is between 90 % and 150 % of its memory, with all indexes."""

    def fill() -> Collection:
        collection = Collection(1000, Clock())
        # New bytes for each, as they come from a socket.
        blobs = [bytes(bytearray(VARIANTS[variant](number))) for number in range(NUMBER)]
        collection.replace(b"1000", ALICE, 0, [parse_credential(blob) for blob in blobs], None)
        collection.take_changes()
        (ccache,) = collection
        list(ccache.credentials.service_tickets)
        assert ccache.credentials.packed
        return collection

    memory, collection = memory_of(fill)
    assert 0.9 * memory <= collection.use.size <= 1.5 * memory, collection.use.size / memory


def test_size_of_a_ccache_includes_its_objects() -> None:
    """A ccache also counts for its principal and objects, which its first ticket creates."""

    def fill() -> Collection:
        collection = Collection(1000, Clock())
        for number in range(NUMBER):
            owner = Principal(1, b"R" * 100, (b"%d" % number,))
            tgt = parse_credential(bytes(bytearray(credential_bytes(client=owner))))
            collection.replace(b"1000:%d" % number, owner, 0, [tgt], None)
        collection.take_changes()
        for ccache in collection:
            assert ccache.credentials.packed
        return collection

    memory, collection = memory_of(fill)
    assert 0.8 * memory <= collection.use.size <= 1.5 * memory, collection.use.size / memory
