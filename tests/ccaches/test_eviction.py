"""Room for a change: the ccaches that are evicted, and their order."""

import pytest

from pykcm.ccaches.changes import Removal, removals_in
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.quotas import CCacheCount, Quotas
from pykcm.protocol.credential import Credential
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    Clock,
    configuration,
    tag_for,
    ticket,
)
from tests.ccaches.contents import (
    EXPIRED,
    LONG_EXPIRED,
    PRINCIPAL_SIZE,
    VALID,
    assert_refused,
    collection_of,
    existing,
    names,
    servers,
)

pytestmark = pytest.mark.usefixtures("bytes_alone")

P = PRINCIPAL_SIZE
NOW = 1500


@pytest.mark.parametrize(
    ("option", "quotas"),
    [
        ("max_uid_ccaches", Quotas(max_uid_ccaches=4)),
        ("max_ccaches", Quotas(max_ccaches=4)),
        ("max_uid_size", Quotas(max_uid_size=4 * (P + 200))),
    ],
)
def test_ccache_that_expired_first_is_evicted(option: str, quotas: Quotas) -> None:
    """A new ccache evicts the one that expired first, and only that one."""
    ccaches = {b"1000:v": VALID, b"1000:e": EXPIRED, b"1000:l": LONG_EXPIRED, b"1000:w": VALID}
    collection = collection_of(ccaches, quotas, 4)
    collection.replace(b"1000:new", ALICE, 0, VALID, None)
    assert names(collection) == [b"1000:v", b"1000:e", b"1000:w", b"1000:new"]
    assert removals_in(collection.take_changes()) == [Removal(b"1000:l", option)]
    collection.replace(b"1000:newer", ALICE, 0, VALID, None)
    assert names(collection) == [b"1000:v", b"1000:w", b"1000:new", b"1000:newer"]
    assert removals_in(collection.take_changes()) == [Removal(b"1000:e", option)]
    collection.take_changes()
    assert_refused(collection, lambda: collection.replace(b"1000:newest", ALICE, 0, VALID, None))


def test_initialize_evicts_as_replace_does() -> None:
    """INITIALIZE of a new ccache evicts an expired one, as REPLACE does."""
    collection = collection_of({b"1000:e": EXPIRED}, Quotas(max_uid_ccaches=1))
    collection.initialize(b"1000", ALICE, None)
    assert names(collection) == [b"1000"]
    assert removals_in(collection.take_changes()) == [Removal(b"1000:e", "max_uid_ccaches")]


def test_ccaches_that_expired_together_are_evicted_in_order() -> None:
    """Of ccaches that expired in the same second the first stored one is evicted first."""
    collection = collection_of({b"1000:b": EXPIRED, b"1000:a": EXPIRED}, Quotas(max_uid_ccaches=2))
    collection.initialize(b"1000", ALICE, None)
    assert names(collection) == [b"1000:a", b"1000"]


@pytest.mark.parametrize(
    "tickets",
    [
        VALID,
        [ticket(ends=NOW + 1)],
        [ticket(ends=1), ticket(HTTP, ends=NOW + 1)],
        [ticket(ends=0)],
        [],
        [configuration(b"x", b"y")],
    ],
    ids=["valid", "almost expired", "one valid", "without an end", "empty", "configuration alone"],
)
def test_valid_and_new_ccaches_are_never_evicted(tickets: list[Credential]) -> None:
    """A ccache with a valid ticket is never evicted, nor one that was just initialised."""
    quotas = Quotas(max_uid_ccaches=1, max_uid_size=1000)
    collection = collection_of({b"1000": tickets}, quotas)
    assert_refused(collection, lambda: collection.initialize(b"1000:a", ALICE, None))


@pytest.mark.parametrize("entries", [[], [configuration(b"x", b"y")]], ids=["nothing", "configuration"])
def test_abandoned_ccaches_are_evicted(entries: list[Credential]) -> None:
    """A ccache without tickets for more than a minute is evicted, after the expired ones."""
    clock = Clock(NOW)
    collection = Collection(1000, clock, Quotas(max_uid_ccaches=2))
    collection.replace(b"1000:empty", ALICE, 0, entries, None)
    collection.replace(b"1000:e", ALICE, 0, [ticket(ends=NOW + 61)], None)
    collection.take_changes()
    clock.now = NOW + 60
    assert_refused(collection, lambda: collection.initialize(b"1000", ALICE, None))
    clock.now = NOW + 61
    collection.initialize(b"1000", ALICE, None)
    assert names(collection) == [b"1000:empty", b"1000"]
    collection.initialize(b"1000:a", ALICE, None)
    assert names(collection) == [b"1000", b"1000:a"]
    assert removals_in(collection.take_changes()) == [
        Removal(b"1000:e", "max_uid_ccaches"),
        Removal(b"1000:empty", "max_uid_ccaches", is_empty=True),
    ]


def test_oldest_abandoned_ccache_is_evicted_first() -> None:
    """Of ccaches without tickets the one that lost them first is evicted, also after a restart."""
    clock = Clock(NOW)
    written = Collection(1000, clock)
    for age, name in enumerate((b"1000:b", b"1000:a", b"1000:c")):
        clock.now = NOW + age
        written.initialize(name, ALICE, None)
    written.remove_credentials(existing(written, b"1000:b"), tag_for(TGS), 0)
    written.store(existing(written, b"1000:b"), VALID[0])
    clock.now = NOW + 5
    written.remove_credentials(existing(written, b"1000:b"), tag_for(TGS), 0)
    collection = Collection(1000, Clock(NOW + 100), Quotas(max_uid_ccaches=3))
    collection.restore(list(written))
    for new in (b"1000:1", b"1000:2", b"1000:3"):
        collection.initialize(new, ALICE, None)
    removed = [removal.ccache for removal in removals_in(collection.take_changes())]
    assert removed == [b"1000:a", b"1000:c", b"1000:b"]


def test_ticket_has_expired_at_its_endtime() -> None:
    """In the second of its endtime a ticket has expired."""
    collection = collection_of({b"1000:e": [ticket(ends=NOW)]}, Quotas(max_uid_ccaches=1))
    collection.initialize(b"1000", ALICE, None)
    assert names(collection) == [b"1000"]


def test_ccache_valid_by_the_kdcs_clock_is_not_evicted() -> None:
    """A ccache whose tickets are still valid by its KDC offset is not evicted."""
    collection = collection_of({b"1000": EXPIRED}, Quotas(max_uid_ccaches=1))
    collection.set_kdc_offset(existing(collection, b"1000"), -200)
    collection.take_changes()
    assert_refused(collection, lambda: collection.initialize(b"1000:a", ALICE, None))


def test_written_ccache_is_not_evicted() -> None:
    """The ccache that is written is not evicted, nor its TGT, even if all in it has expired."""
    quotas = Quotas(max_uid_size=P + 300)
    collection = collection_of({b"1000": EXPIRED}, quotas)
    ccache = existing(collection, b"1000")
    assert_refused(collection, lambda: collection.store(ccache, ticket(HTTP)))
    assert_refused(collection, lambda: collection.replace(b"1000", ALICE, 0, [*VALID, ticket(HTTP)], None))


def test_unavailable_ccaches_are_never_evicted() -> None:
    """A ccache that cannot be read counts, and is never evicted."""
    collection = collection_of({b"1000:e": EXPIRED}, Quotas(max_uid_ccaches=2))
    collection.unavailable[b"1000:broken"] = bytes(16)
    collection.initialize(b"1000", ALICE, None)
    assert names(collection) == [b"1000"]
    collection.take_changes()
    assert_refused(collection, lambda: collection.initialize(b"1000:a", ALICE, None))
    assert collection.unavailable == {b"1000:broken": bytes(16)}


def test_only_as_many_as_needed_are_evicted() -> None:
    """Under lowered limits as many ccaches as needed are evicted; if all do not suffice, none is."""
    ccaches = {b"1000:%d" % number: EXPIRED for number in range(3)} | {b"1000": VALID}
    collection = collection_of(ccaches, Quotas(max_uid_ccaches=2))
    collection.initialize(b"1000:new", ALICE, None)
    assert names(collection) == [b"1000", b"1000:new"]
    collection = collection_of(ccaches | {b"1000:v": VALID}, Quotas(max_uid_ccaches=2))
    assert_refused(collection, lambda: collection.initialize(b"1000:new", ALICE, None))


def test_refused_change_evicts_nothing() -> None:
    """A change that one limit refuses evicts nothing for another one."""
    quotas = Quotas(max_uid_ccaches=1, max_ccache_size=P + 200)
    collection = collection_of({b"1000": EXPIRED}, quotas)
    assert_refused(collection, lambda: collection.replace(b"1000:a", ALICE, 0, [ticket(size=201)], None))
    collection.replace(b"1000:a", ALICE, 0, [ticket(size=200)], None)
    assert names(collection) == [b"1000:a"]


def test_eviction_keeps_the_default() -> None:
    """A default that named the only ccache stays, because the collection was never empty."""
    collection = collection_of({b"1000:e": EXPIRED}, Quotas(max_uid_ccaches=1))
    collection.set_default(b"1000:e")
    collection.initialize(b"1000", ALICE, None)
    assert names(collection) == [b"1000"]
    assert collection.default_name == b"1000:e"


def test_other_uids_ccaches_are_not_evicted() -> None:
    """max_ccaches evicts nothing from another UID."""
    ccache_count = CCacheCount(0)
    mine, theirs = (Collection(uid, Clock(NOW), Quotas(max_ccaches=2), ccache_count) for uid in (1000, 2000))
    mine.replace(b"1000", ALICE, 0, VALID, None)
    theirs.replace(b"2000", ALICE, 0, EXPIRED, None)
    mine.take_changes()
    assert_refused(mine, lambda: mine.initialize(b"1000:a", ALICE, None))
    theirs.initialize(b"2000:a", ALICE, None)
    assert (names(theirs), ccache_count.total) == ([b"2000:a"], 2)


def test_move_to_another_uid_evicts_there() -> None:
    """MOVE_CACHE into another UID's collection evicts expired ccaches there; the moved one is complete."""
    source = collection_of({b"1000": [*VALID, ticket(HTTP)], b"1000:e": EXPIRED}, Quotas())
    target = Collection(2000, Clock(NOW), Quotas(max_uid_ccaches=1, max_uid_size=P + 400))
    target.replace(b"2000", ALICE, 0, EXPIRED, None)
    move(source, b"1000", target, b"2000:a")
    assert (names(source), names(target)) == ([b"1000:e"], [b"2000:a"])
    assert servers(target, b"2000:a") == [TGS, HTTP]
    assert removals_in(target.take_changes()) == [Removal(b"2000", "max_uid_ccaches")]
    assert removals_in(source.take_changes()) == []
    move(source, b"1000:e", target, b"2000:a")
    source.replace(b"1000", ALICE, 0, [*VALID, ticket(HTTP, size=201)], None)
    source.take_changes(), target.take_changes()
    assert_refused(target, lambda: move(source, b"1000", target, b"2000:b"))
    assert names(source) == [b"1000"]
