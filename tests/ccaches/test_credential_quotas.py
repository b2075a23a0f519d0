"""Quotas of the number of credentials."""

import errno

import pytest

from pykcm.ccaches.changes import Removal, removals_in
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.quotas import Quotas
from tests.builders import (
    ALICE,
    TGS,
    Clock,
    credential,
    refused,
    service,
    tgs,
)
from tests.ccaches.contents import (
    assert_refused,
    existing,
    servers,
)

pytestmark = pytest.mark.usefixtures("bytes_alone")


def filled(number: int, quotas: Quotas) -> Collection:
    """The ccache `1000` with one TGT and so many service tickets, whatever the quotas."""
    unlimited = Collection(1000, Clock())
    tickets = [credential(service(each)) for each in range(number)]
    unlimited.replace(b"1000", ALICE, 0, [credential(TGS), *tickets], None)
    collection = Collection(1000, Clock(), quotas)
    collection.restore(list(unlimited))
    return collection


@pytest.mark.parametrize("option", ["max_ccache_credentials", "max_uid_credentials"])
def test_store_at_the_limit_evicts_the_oldest_ticket(option: str) -> None:
    """At the limit a STORE of another credential evicts the oldest service ticket, and no more."""
    collection = filled(2, Quotas(**{option: 4}))
    ccache = existing(collection, b"1000")
    collection.store(ccache, credential(service(2)))
    assert removals_in(collection.take_changes()) == []
    collection.store(ccache, credential(service(3)))
    assert servers(collection) == [TGS, service(1), service(2), service(3)]
    assert removals_in(collection.take_changes()) == [Removal(b"1000", option, 1)]
    # One that takes another one's place is no more.
    collection.store(ccache, credential(TGS, ticket=b"renewed"))
    assert removals_in(collection.take_changes()) == []


@pytest.mark.parametrize(
    ("option", "owner"),
    [("max_ccache_credentials", "ccache KCM:1000"), ("max_uid_credentials", "the owner of KCM:1000")],
)
def test_too_many_credentials_are_refused(option: str, owner: str) -> None:
    """A REPLACE beyond the number, or a STORE into a ccache of TGTs only, is EDQUOT."""
    collection = filled(0, Quotas(**{option: 2}))
    ccache = existing(collection, b"1000")
    three = [credential(service(each)) for each in range(3)]
    assert_refused(collection, lambda: collection.replace(b"1000", ALICE, 0, three, None), option, owner)
    collection.store(ccache, credential(tgs(1)))
    collection.take_changes()
    assert_refused(collection, lambda: collection.store(ccache, credential(tgs(2))), option, owner)
    collection.replace(b"1000", ALICE, 0, three[:2], None)


def test_number_of_all_credentials_of_a_uid() -> None:
    """max_uid_credentials counts those of all ccaches; an expired ccache makes room for others."""
    collection = filled(1, Quotas(max_uid_credentials=4))
    collection.replace(b"1000:a", ALICE, 0, [credential(TGS), credential(service(1))], None)
    collection.take_changes()
    assert_refused(
        collection,
        lambda: collection.replace(b"1000:b", ALICE, 0, [credential()], None),
        "max_uid_credentials",
        "the owner of KCM:1000",
    )
    collection.destroy(b"1000:a")
    collection.replace(b"1000:b", ALICE, 0, [credential()], None)


@pytest.mark.parametrize(
    "quotas",
    [
        Quotas(max_ccache_credentials=3),
        Quotas(max_uid_credentials=3),
        Quotas(max_ccache_size=1000),
        Quotas(max_uid_size=1000),
    ],
)
def test_ccache_beyond_a_limit_cannot_grow(quotas: Quotas) -> None:
    """A ccache of an earlier version beyond a limit loses one ticket for each new one, and no more."""
    collection = filled(9, quotas)
    ccache = existing(collection, b"1000")
    collection.store(ccache, credential(service(9)))
    assert servers(collection) == [TGS, *[service(each) for each in range(1, 10)]]
    collection.store(ccache, credential(service(5)))
    assert len(ccache.credentials) == 10
    collection.take_changes()
    with refused(errno.EDQUOT):
        collection.replace(b"1000:new", ALICE, 0, [credential(service(each)) for each in range(9)], None)
    move(collection, b"1000", collection, b"1000:moved")
    assert len(existing(collection, b"1000:moved").credentials) == 10
