"""Room for a change: which ccaches and tickets are evicted, in which order, and never in vain."""

import errno
from collections.abc import Callable

import pytest

from pykcm.ccaches.changes import Removal, removals_in
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.quotas import CCacheCount, Quotas
from pykcm.ccaches.service_tickets import ServiceTickets
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    Clock,
    configuration,
    principal,
    principal_bytes,
    refused,
    service,
    tag_for,
    ticket,
)
from tests.ccaches.contents import contents, existing, names

pytestmark = pytest.mark.usefixtures("bytes_alone")

P = len(principal_bytes(ALICE))
NOW = 1500


def collection_of(
    ccaches: dict[bytes, list[Credential]], quotas: Quotas, total: int | None = None
) -> Collection:
    """A collection of UID 1000 with these ccaches, whatever the quotas."""
    filled = Collection(1000, Clock())
    for name, credentials in ccaches.items():
        filled.replace(name, ALICE, 0, credentials, None)
    collection = Collection(1000, Clock(NOW), quotas, CCacheCount(total))
    collection.restore(list(filled))
    return collection


def servers(collection: Collection, name: bytes = b"1000") -> list[Principal]:
    return [credential.server for credential in existing(collection, name).credentials]


def assert_refused(collection: Collection, attempt: Callable[[], object]) -> None:
    """The attempt is EDQUOT and has changed nothing."""
    before = contents(collection)
    with refused(errno.EDQUOT):
        attempt()
    assert contents(collection) == before
    assert collection.take_changes() == []
    assert removals_in(collection.take_changes()) == []


# Ccaches

VALID, EXPIRED, LONG_EXPIRED = [ticket(ends=2000)], [ticket(ends=1400)], [ticket(ends=1300)]


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


def test_abandoned_ccaches_are_evicted_before_tickets() -> None:
    """A ccache without tickets is evicted before tickets of the ccache that is written."""
    clock = Clock(NOW)
    collection = Collection(1000, clock, Quotas(max_uid_size=P + 600))
    collection.initialize(b"1000:empty", ALICE, None)
    collection.replace(b"1000", ALICE, 0, [*VALID, OLD], None)
    clock.now += 61
    collection.store(existing(collection, b"1000"), ticket(HTTP))
    assert names(collection) == [b"1000"]
    assert servers(collection) == [TGS, OLD.server, HTTP]


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
    """Nothing is evicted for one limit if another one refuses the change."""
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


# Service tickets

OLD, OLDER, OLDEST = (ticket(service(n), issued=1000 - n) for n in range(3))
CROSS_REALM = ticket(principal("krbtgt/OTHER.TEST"), issued=1)
CONFIGURATION = configuration(b"fast_avail", b"yes" + bytes(50))
GSSPROXY = ticket(principal("Encrypted/Credentials/v1@X-GSSPROXY:"), issued=1)
WITHOUT_TIMES = ticket(service(1), authtime=0, issued=0, ends=0)


@pytest.mark.parametrize("option", ["max_ccache_size", "max_uid_size"])
def test_service_ticket_issued_first_is_evicted(option: str) -> None:
    """The service ticket that was issued first is evicted for another, and no more than needed."""
    quotas = Quotas()._replace(**{option: P + 1000})
    full = [OLD, ticket(TGS, issued=1), OLDEST, CROSS_REALM, OLDER]
    collection = collection_of({b"1000": full}, quotas)
    ccache = existing(collection, b"1000")
    collection.store(ccache, ticket(HTTP))
    assert servers(collection) == [service(0), TGS, CROSS_REALM.server, service(1), HTTP]
    assert removals_in(collection.take_changes()) == [Removal(b"1000", option, 1)]
    collection.store(ccache, ticket(service(9), size=201))
    assert servers(collection) == [TGS, CROSS_REALM.server, HTTP, service(9)]
    assert removals_in(collection.take_changes()) == [Removal(b"1000", option, 2)]


def test_tgts_and_entries_are_never_evicted() -> None:
    """Neither a TGT, of any realm, nor an entry that is no ticket is evicted, however old it is."""
    kept = [CONFIGURATION, GSSPROXY, WITHOUT_TIMES, ticket(TGS, issued=1, ends=2), CROSS_REALM]
    size = P + sum(len(credential.blob) for credential in kept)
    collection = collection_of({b"1000": kept}, Quotas(max_ccache_size=size))
    ccache = existing(collection, b"1000")
    assert_refused(collection, lambda: collection.store(ccache, ticket(HTTP)))


@pytest.mark.parametrize("new", [ticket(), configuration(b"a", b"b"), ticket(HTTP)])
def test_any_credential_evicts_service_tickets(new: Credential) -> None:
    """A TGT and a configuration entry evict service tickets as another service ticket does."""
    collection = collection_of({b"1000": [OLD]}, Quotas(max_ccache_size=P + 200))
    collection.store(existing(collection, b"1000"), new)
    assert servers(collection) == [new.server]


def test_ticket_without_a_starttime_was_issued_at_its_authtime() -> None:
    """A ticket without a starttime was issued at its authtime; of equal ones the first is evicted."""
    given = [
        ticket(service(1), issued=0, authtime=500),
        ticket(service(2), issued=499, authtime=600),
        ticket(service(3), issued=499, authtime=400),
        ticket(service(4), issued=0, authtime=498),
    ]
    collection = collection_of({b"1000": given}, Quotas(max_ccache_size=P + 800))
    ccache = existing(collection, b"1000")
    gone = []
    for number in range(4):
        before = servers(collection)
        collection.store(ccache, ticket(service(10 + number)))
        gone += [server for server in before if server not in servers(collection)]
    assert gone == [service(4), service(2), service(3), service(1)]


def test_replaced_ticket_keeps_its_place_in_the_eviction() -> None:
    """Of tickets issued together the first stored one is evicted, even if it was replaced since."""
    given = [ticket(service(number)) for number in range(3)]
    collection = collection_of({b"1000": given}, Quotas(max_ccache_size=P + 600))
    ccache = existing(collection, b"1000")
    collection.store(ccache, ticket(service(3), issued=1001))
    for issued in (1002, 1000):
        collection.store(ccache, ticket(service(1), issued=issued))
    collection.store(ccache, ticket(service(4), issued=1001))
    assert servers(collection) == [service(2), service(3), service(4)]


def test_store_into_a_full_ccache_scans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A STORE into a full ccache examines the new ticket, and not all that are stored."""
    full = [ticket(service(number)) for number in range(500)]
    collection = collection_of({b"1000": full}, Quotas(max_ccache_size=P + 500 * 200))
    ccache = existing(collection, b"1000")
    looked = []
    put = ServiceTickets.put

    def counting(tickets: ServiceTickets, uuid: bytes, credential: Credential) -> None:
        looked.append(uuid)
        put(tickets, uuid, credential)

    monkeypatch.setattr(ServiceTickets, "put", counting)
    for number in range(500, 510):
        collection.store(ccache, ticket(service(number)))
    assert servers(collection) == [service(number) for number in range(10, 510)]
    assert len(looked) == 500 + 10


def test_stored_ticket_does_not_evict_itself() -> None:
    """A ticket that grows evicts others and not itself."""
    collection = collection_of({b"1000": [OLDEST, OLD]}, Quotas(max_ccache_size=P + 400))
    ccache = existing(collection, b"1000")
    collection.store(ccache, ticket(OLDEST.server, issued=998, size=201))
    assert servers(collection) == [OLDEST.server]
    collection.take_changes()
    assert_refused(collection, lambda: collection.store(ccache, ticket(OLDEST.server, size=401)))


def test_ticket_that_never_fits_evicts_nothing() -> None:
    """A ticket that is too large for any room evicts nothing."""
    collection = collection_of({b"1000": [OLD, *VALID]}, Quotas(max_ccache_size=P + 400))
    ccache = existing(collection, b"1000")
    assert_refused(collection, lambda: collection.store(ccache, ticket(HTTP, size=201)))
    collection.store(ccache, ticket(HTTP, size=200))
    assert servers(collection) == [TGS, HTTP]


@pytest.mark.parametrize("name", [b"1000", b"1000:new"])
def test_replace_is_complete_or_refused(name: bytes) -> None:
    """A REPLACE over a limit is refused: no ticket of it is left out, and none is evicted."""
    quotas = Quotas(max_ccache_size=P + 400, max_uid_size=2 * P + 500)
    collection = collection_of({b"1000": [OLD, OLDER], b"1000:e": EXPIRED}, quotas)
    sent = [*VALID, ticket(HTTP), ticket(service(9), size=150)]
    assert_refused(collection, lambda: collection.replace(name, ALICE, 0, sent, None))


def test_other_ccaches_keep_their_tickets() -> None:
    """Service tickets of another valid ccache are not evicted."""
    ccaches = {b"1000": [*VALID, OLDEST], b"1000:a": VALID}
    collection = collection_of(ccaches, Quotas(max_uid_size=2 * P + 600))
    written = existing(collection, b"1000:a")
    assert_refused(collection, lambda: collection.store(written, ticket(HTTP)))


def test_expired_ccaches_are_evicted_before_tickets() -> None:
    """Expired ccaches are evicted before tickets of the written ccache; then both are."""
    ccaches = {b"1000": [*VALID, OLD, OLDEST], b"1000:e": EXPIRED}
    limit = 2 * P + 800
    collection = collection_of(ccaches, Quotas(max_uid_size=limit))
    ccache = existing(collection, b"1000")
    collection.store(ccache, ticket(service(5)))
    assert names(collection) == [b"1000"]
    assert servers(collection) == [TGS, service(0), service(2), service(5)]
    assert removals_in(collection.take_changes()) == [Removal(b"1000:e", "max_uid_size")]
    collection = collection_of(ccaches, Quotas(max_uid_size=limit))
    collection.store(existing(collection, b"1000"), ticket(service(5), size=200 + P + 200))
    assert servers(collection) == [TGS, service(0), service(5)]
    assert removals_in(collection.take_changes()) == [
        Removal(b"1000:e", "max_uid_size"),
        Removal(b"1000", "max_uid_size", 1),
    ]


def test_tickets_evicted_for_a_ccache_limit_spare_ccaches() -> None:
    """If tickets have to be evicted for max_ccache_size, no ccache is evicted for the same bytes."""
    ccaches = {b"1000": [*VALID, OLD], b"1000:e": EXPIRED}
    quotas = Quotas(max_ccache_size=P + 400, max_uid_size=2 * P + 600)
    collection = collection_of(ccaches, quotas)
    collection.store(existing(collection, b"1000"), ticket(HTTP))
    assert names(collection) == [b"1000", b"1000:e"]
    assert removals_in(collection.take_changes()) == [Removal(b"1000", "max_ccache_size", 1)]


def test_ccache_that_lost_its_last_ticket_is_empty() -> None:
    """A ccache whose last ticket was evicted for an entry counts as empty from then on."""
    collection = collection_of({b"1000": [OLD]}, Quotas(max_ccache_size=P + 200))
    ccache = existing(collection, b"1000")
    collection.store(ccache, CONFIGURATION)
    assert not ccache.has_tickets
    assert ccache.expires is not None
    assert ccache.expires > NOW
