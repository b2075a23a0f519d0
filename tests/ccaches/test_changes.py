"""The recorded changes have all that events need."""

import pytest

from pykcm.ccaches.ccache import UNKNOWN_LABEL
from pykcm.ccaches.changes import (
    EXPIRED,
    CCacheCreated,
    CCacheMoved,
    CCacheRemoved,
    CCacheReplaced,
    CredentialRemoved,
    CredentialStored,
    DefaultChanged,
    KdcOffsetChanged,
    LabelChanged,
    Removal,
    added_ccaches,
    removals_in,
    written_size,
)
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults
from pykcm.ccaches.quotas import Quotas
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, BOB, HTTP, Clock, tag_for, ticket
from tests.ccaches.contents import existing

NOW = 1500.0


@pytest.fixture
def collection() -> Collection:
    """A collection with the ccache `1000`, which has a TGT that ends at 2000."""
    collection = Collection(1000, Clock(NOW))
    collection.replace(b"1000", ALICE, 0, [ticket(ends=2000)], "label")
    collection.take_changes()
    return collection


@pytest.mark.parametrize(
    ("principal", "ends", "renews"), [(ALICE, 3000, True), (ALICE, 2000, False), (BOB, 3000, False)]
)
def test_replaced_ccache_is_recorded_with_the_overwritten_one(
    collection: Collection, principal: Principal, ends: int, renews: bool
) -> None:
    """A REPLACE records the old ccache, and renews it if the same principal's TGT ends later."""
    old = existing(collection, b"1000")
    new = collection.replace(b"1000", principal, 0, [ticket(ends=ends)], "other")
    change = collection.take_changes()[0]
    assert change == CCacheReplaced(new, old)
    assert isinstance(change, CCacheReplaced)
    assert change.renews is renews
    assert change.overwritten.credentials.tgt_end == 2000


def test_initialize_of_an_existing_ccache_renews_nothing(collection: Collection) -> None:
    """An INITIALIZE replaces the ccache by one without a TGT."""
    collection.initialize(b"1000", ALICE, None)
    change = collection.take_changes()[0]
    assert isinstance(change, CCacheReplaced)
    assert not change.renews


def test_store_is_recorded_with_the_replaced_credential(collection: Collection) -> None:
    """A STORE records the credential, the one that it replaced, and whether that renews the TGT."""
    ccache = existing(collection, b"1000")
    ((uuid, old),) = ccache.credentials.items()
    renewed, service_ticket = ticket(ends=3000), ticket(HTTP)
    collection.store(ccache, renewed)
    stored = collection.take_changes()[0]
    assert stored == CredentialStored(ccache, uuid, renewed, old)
    assert isinstance(stored, CredentialStored)
    assert stored.renews
    collection.store(ccache, service_ticket)
    (stored,) = collection.take_changes()
    assert isinstance(stored, CredentialStored)
    assert (stored.credential, stored.replaced, stored.renews) == (service_ticket, None, False)


@pytest.mark.parametrize(("server", "ends"), [(None, 2000), (HTTP, 3000)])
def test_only_a_later_tgt_renews(collection: Collection, server: Principal | None, ends: int) -> None:
    """Neither a TGT that ends at the same time nor a service ticket that ends later renews."""
    ccache = existing(collection, b"1000")
    arguments = () if server is None else (server,)
    collection.store(ccache, ticket(*arguments, ends=2000))
    collection.take_changes()
    collection.store(ccache, ticket(*arguments, ends=ends))
    stored = collection.take_changes()[0]
    assert isinstance(stored, CredentialStored)
    assert stored.replaced is not None
    assert not stored.renews


def test_requested_removals_have_no_reason(collection: Collection) -> None:
    """REMOVE_CRED and DESTROY record what was removed, without a reason."""
    ccache = existing(collection, b"1000")
    service_ticket = ticket(HTTP)
    collection.store(ccache, service_ticket)
    _, uuid = ccache.credentials.uuids()
    collection.take_changes()
    collection.remove_credentials(ccache, tag_for(HTTP), 0)
    collection.destroy(b"1000")
    changes = collection.take_changes()
    assert changes == [
        CredentialRemoved(ccache, uuid, service_ticket),
        CCacheRemoved(ccache.uuid, b"1000", True, ccache, "label"),
    ]
    assert removals_in(changes) == []


def test_unavailable_ccache_is_recorded_with_its_label(collection: Collection) -> None:
    """The removal of an unreadable ccache has its label, where that is known, and no ccache."""
    collection.unavailable |= {b"1000:a": b"a" * 16, b"1000:b": b"b" * 16}
    collection.unavailable_labels[b"1000:a"] = "label"
    collection.destroy(b"1000:a")
    collection.destroy(b"1000:b")
    assert collection.take_changes() == [
        CCacheRemoved(b"a" * 16, b"1000:a", False, None, "label"),
        CCacheRemoved(b"b" * 16, b"1000:b", False, None, UNKNOWN_LABEL),
    ]


def test_expired_ccache_is_recorded_with_the_reason(collection: Collection) -> None:
    """A removal by the reaper has the option that demanded it, and is summed up as a removal."""
    ccache = existing(collection, b"1000")
    collection.remove_expired([ccache.uuid], 2000)
    changes = collection.take_changes()
    assert changes == [CCacheRemoved(ccache.uuid, b"1000", True, ccache, "label", EXPIRED)]
    assert removals_in(changes) == [Removal(b"1000", EXPIRED)]


def test_evictions_are_recorded_with_the_reason() -> None:
    """Evicted ccaches and service tickets have the quota as their reason; tickets are summed up by ccache."""
    clock = Clock(1000)
    collection = Collection(1000, clock, Quotas(max_ccache_credentials=3, max_uid_ccaches=2))
    tickets = [ticket(server, ends=9000) for server in (HTTP, BOB)]
    ccache = collection.replace(b"1000", ALICE, 0, [ticket(ends=9000), *tickets], None)
    empty = collection.initialize(b"1000:empty", ALICE, None)
    clock.now = 1100
    first, _ = ccache.credentials.service_tickets
    collection.take_changes()
    collection.store(ccache, ticket(ALICE, ends=9000))
    collection.initialize(b"1000:new", ALICE, None)
    changes = collection.take_changes()
    assert CredentialRemoved(ccache, first, tickets[0], "max_ccache_credentials") in changes
    assert CCacheRemoved(empty.uuid, b"1000:empty", False, empty, None, "max_uid_ccaches") in changes
    assert removals_in(changes) == [
        Removal(b"1000", "max_ccache_credentials", 1),
        Removal(b"1000:empty", "max_uid_ccaches", is_empty=True),
    ]


@pytest.mark.parametrize("is_taken", [False, True])
def test_rename_is_recorded_with_both_names(collection: Collection, is_taken: bool) -> None:
    """A rename records the old ccache, the new one, where its contents are from, and what it overwrote."""
    old = existing(collection, b"1000")
    overwritten = collection.initialize(b"1000:new", BOB, None) if is_taken else None
    collection.take_changes()
    move(collection, b"1000", collection, b"1000:new")
    new = existing(collection, b"1000:new")
    written, moved, default = collection.take_changes()
    if overwritten is None:
        assert written == CCacheCreated(new, b"1000")
    else:
        assert written == CCacheReplaced(new, overwritten, b"1000")
    assert moved == CCacheMoved(old, 1000, new, overwritten, was_last=False)
    assert default == DefaultChanged(Defaults(b"1000:new"), NOTHING_CHOSEN)


def test_move_to_another_uid_is_recorded_in_both_collections(collection: Collection) -> None:
    """The target records the ccache as created from the old name; the source records where it went."""
    target = Collection(2000, Clock(NOW))
    old = existing(collection, b"1000")
    move(collection, b"1000", target, b"2000")
    new = existing(target, b"2000")
    assert target.take_changes() == [CCacheCreated(new, b"1000")]
    assert collection.take_changes() == [CCacheMoved(old, 2000, new, None, was_last=True)]


def test_changed_fields_are_recorded_with_the_value_before(collection: Collection) -> None:
    """A KDC offset and a label are recorded with what they were."""
    ccache = existing(collection, b"1000")
    collection.set_kdc_offset(ccache, 7)
    collection.set_kdc_offset(ccache, 8)
    collection.relabel(ccache, "other")
    assert collection.take_changes() == [
        KdcOffsetChanged(ccache, 0),
        KdcOffsetChanged(ccache, 7),
        LabelChanged(ccache, "label"),
    ]


def test_number_of_added_ccaches(collection: Collection) -> None:
    """Created ccaches count one, removed ones minus one, and a rename or replacement nothing."""
    ccache = existing(collection, b"1000")
    collection.initialize(b"1000:a", ALICE, None)
    collection.initialize(b"1000:b", ALICE, None)
    collection.initialize(b"1000:a", BOB, None)
    collection.store(ccache, ticket(HTTP))
    assert added_ccaches(collection.take_changes()) == 2
    move(collection, b"1000:a", collection, b"1000:c")
    assert added_ccaches(collection.take_changes()) == 0
    move(collection, b"1000:c", collection, b"1000")
    collection.destroy(b"1000")
    assert added_ccaches(collection.take_changes()) == -2


def test_written_size_counts_what_is_written_and_deleted(collection: Collection) -> None:
    """New, overwritten and removed credentials count, and a rename does not: it copies nothing."""
    ccache = existing(collection, b"1000")
    service_ticket = ticket(HTTP)
    collection.store(ccache, service_ticket)
    credential_size = written_size(collection.take_changes())
    assert credential_size > len(service_ticket.blob)
    collection.remove_credentials(ccache, tag_for(HTTP), 0)
    assert written_size(collection.take_changes()) == credential_size
    move(collection, b"1000", collection, b"1000:a")
    assert written_size(collection.take_changes()) == 0
    old_size = existing(collection, b"1000:a").size
    collection.replace(b"1000:a", ALICE, 0, [service_ticket], None)
    assert written_size(collection.take_changes()) == old_size + credential_size
    size = existing(collection, b"1000:a").size
    collection.destroy(b"1000:a")
    assert written_size(collection.take_changes()) == size
