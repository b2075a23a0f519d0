"""Room for a change: the service tickets that are evicted, and their order."""

import pytest

from pykcm.ccaches.changes import Removal, removals_in
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import Quotas
from pykcm.ccaches.service_tickets import ServiceTickets
from pykcm.protocol.credential import Credential
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    Clock,
    configuration,
    principal,
    service,
    ticket,
)
from tests.ccaches.contents import (
    EXPIRED,
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
