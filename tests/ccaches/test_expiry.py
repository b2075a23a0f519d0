"""The expiry of ccaches, and the removal of expired ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.ccaches import eviction
from pykcm.ccaches.changes import ExpiryChanged, Removal, removals_in
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.expiry import EMPTY_LIFETIME, NO_END, LatestEnd, end_of
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Match, Tag
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    Clock,
    configuration,
    credential_bytes,
    principal,
    service,
    tag_for,
    tgs,
    ticket,
)
from tests.ccaches import contents
from tests.ccaches.contents import existing, names

NOW = 1500
LAST = 2**32 - 1
NO_TIMES = (0, 0, 0, 0)
# gssproxy keeps its encrypted credentials under this name.
GSSPROXY = principal("Encrypted/Credentials/v1@X-GSSPROXY:")


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def collection(clock: Clock) -> Collection:
    """An empty collection of UID 1000."""
    return Collection(1000, clock)


def expires(collection: Collection) -> int | None:
    return existing(collection, b"1000").expires


@pytest.mark.parametrize(
    ("ends", "expected"),
    [([1], 1), ([1400, 1600, 1500], 1600), ([2**31, 5], 2**31), ([LAST], LAST), ([1600, 0], None)],
)
def test_ccache_expires_with_its_last_ticket(
    collection: Collection, ends: list[int], expected: int | None
) -> None:
    """A ccache expires with the last of its tickets; a ticket without an endtime never ends."""
    tickets = [ticket(service(number), ends=end) for number, end in enumerate(ends)]
    collection.replace(b"1000", ALICE, 0, tickets, None)
    assert expires(collection) == expected
    ccache = collection.initialize(b"1000", ALICE, None)
    for each in tickets:
        collection.store(ccache, each)
    assert expires(collection) == expected


def test_configuration_entries_do_not_count(collection: Collection) -> None:
    """Configuration entries keep no ccache alive, whatever their endtime is."""
    lasting = ticket(Principal(0, b"X-CACHECONF:", (b"krb5_ccache_conf_data", b"x")), ends=LAST)
    plain = configuration(b"refresh_time", b"1700")
    assert end_of(lasting) is None
    assert end_of(plain) is None
    collection.replace(b"1000", ALICE, 0, [plain, ticket(ends=1600), lasting], None)
    assert expires(collection) == 1600


@pytest.mark.parametrize("server", [HTTP, TGS, principal("krb5_ccache_conf_data/x")])
def test_credential_with_any_time_is_a_ticket(server: Principal) -> None:
    """A credential in a real realm that has any time is a ticket; without an endtime it never ends."""
    assert end_of(ticket(server, ends=7)) == 7
    for times in [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)]:
        assert end_of(parse_credential(credential_bytes(server, times=times))) == NO_END


@pytest.mark.parametrize("server", [GSSPROXY, principal("krbtgt/R@X-OTHER:"), principal("@X-GSSPROXY:")])
def test_entries_in_a_pseudo_realm_are_no_tickets(server: Principal) -> None:
    """A credential of a pseudo-realm is not a ticket, whatever its name and times are."""
    for times in [(0, 0, 0, 0), (1, 1, LAST, LAST)]:
        assert end_of(parse_credential(credential_bytes(server, times=times))) is None


def test_entries_without_times_are_no_tickets() -> None:
    """A credential without any of the four times is not a ticket, except one for krbtgt."""
    for server in (HTTP, principal("kadmin/changepw"), principal("")):
        assert end_of(parse_credential(credential_bytes(server, times=NO_TIMES))) is None
    for server in (TGS, tgs(1)):
        assert end_of(parse_credential(credential_bytes(server, times=NO_TIMES))) == NO_END


@pytest.mark.parametrize("server", [GSSPROXY, HTTP])
def test_entries_do_not_keep_a_ccache(collection: Collection, clock: Clock, server: Principal) -> None:
    """A ccache with entries expires with its last ticket; with entries only it expires as an empty one."""
    entry = parse_credential(credential_bytes(server, times=NO_TIMES))
    collection.replace(b"1000", ALICE, 0, [entry, ticket(ends=1600)], None)
    ccache = existing(collection, b"1000")
    assert (ccache.expires, ccache.has_tickets) == (1600, True)
    assert eviction.removable_ccaches([ccache], 1600) == [ccache]
    clock.now = 1700
    collection.remove_credentials(ccache, tag_for(TGS), 0)
    assert (ccache.expires, ccache.has_tickets) == (1700 + EMPTY_LIFETIME, False)
    collection.store(ccache, entry)
    assert ccache.expires == 1700 + EMPTY_LIFETIME


def test_ticket_replaces_an_entry(collection: Collection) -> None:
    """A ticket that replaces an entry counts, and an entry that replaces a ticket does not."""
    ccache = collection.initialize(b"1000", ALICE, None)
    entry = parse_credential(credential_bytes(HTTP, times=NO_TIMES))
    for stored, expected in [(entry, 1500 + EMPTY_LIFETIME), (ticket(HTTP, ends=1600), 1600)] * 2:
        collection.store(ccache, stored)
        assert ccache.expires == expected


def test_kdc_offset_only_prolongs(collection: Collection) -> None:
    """The KDC offset counts only if the tickets last longer by it."""
    collection.replace(b"1000", ALICE, 0, [ticket(ends=1600)], None)
    ccache = existing(collection, b"1000")
    for offset, expected in [(-500, 2100), (500, 1600), (0, 1600), (-(2**31), 1600 + 2**31)]:
        collection.set_kdc_offset(ccache, offset)
        assert ccache.expires == expected


def test_empty_ccache_expires_later(collection: Collection, clock: Clock) -> None:
    """A ccache without tickets expires some time after it was initialised or lost its last ticket."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.store(ccache, configuration(b"proxy_impersonator", b"x"))
    assert ccache.expires == NOW + EMPTY_LIFETIME
    collection.store(ccache, ticket(ends=1600))
    clock.now = 9000
    collection.store(ccache, ticket(HTTP, ends=1700))
    collection.remove_credentials(ccache, tag_for(TGS), 0)
    assert ccache.expires == 1700
    collection.remove_credentials(ccache, tag_for(HTTP), 0)
    assert ccache.expires == 9000 + EMPTY_LIFETIME
    clock.now = 9500
    collection.store(ccache, configuration(b"proxy_impersonator", b"y"))
    assert ccache.expires == 9000 + EMPTY_LIFETIME
    collection.initialize(b"1000", ALICE, None)
    assert expires(collection) == 9500 + EMPTY_LIFETIME


def test_move_keeps_the_expiry(collection: Collection, clock: Clock) -> None:
    """MOVE_CACHE does not change when a ccache expires."""
    collection.initialize(b"1000", ALICE, None)
    clock.now = 9000
    move(collection, b"1000", collection, b"1000:a")
    assert existing(collection, b"1000:a").expires == NOW + EMPTY_LIFETIME


def test_changed_expiry_is_recorded(collection: Collection) -> None:
    """A change is recorded when the expiry of a ccache changes, and only then."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.take_changes()

    def written() -> int:
        return sum(isinstance(change, ExpiryChanged) for change in collection.take_changes())

    for server, ends, expected in [
        (TGS, 2000, 1),
        (HTTP, 2000, 0),
        (service(1), 1900, 0),
        (service(2), 2100, 1),
        (service(2), 2100, 0),
        (service(2), 2200, 1),
        (service(2), 1000, 1),
    ]:
        collection.store(ccache, ticket(server, ends=ends))
        assert (written(), ccache.expires) == (expected, max(2000, ends))
    for server, count in [(HTTP, 0), (service(1), 0), (TGS, 1), (service(2), 1), (service(3), 0)]:
        collection.remove_credentials(ccache, tag_for(server), 0)
        assert written() == count


ENDS = st.sampled_from([None, 1, 2, 3, LAST, NO_END])


@given(st.lists(st.tuples(st.integers(0, 5), ENDS | st.just("remove") | st.just("ask"))))
def test_latest_end_after_any_changes(steps: list[tuple[int, int | str | None]]) -> None:
    """After any sequence of changes the latest end is the greatest of the present tickets."""
    collection = Collection(1000, Clock())
    ccache = collection.initialize(b"1000", ALICE, None)
    there: dict[int, int | None] = {}
    for number, what in steps:
        if what == "ask":
            ends = [end for end in there.values() if end is not None]
            assert ccache.credentials.latest_end == max(ends, default=None)
        elif what == "remove":
            collection.remove_credentials(ccache, tag_for(_server(number, there.get(number))), 0)
            there.pop(number, None)
        elif not isinstance(what, str) and (number not in there or (there[number] is None) == (what is None)):
            end = 0 if what == NO_END else what or 7
            collection.store(ccache, ticket(_server(number, what), ends=end))
            there[number] = what
    ends = [end for end in there.values() if end is not None]
    assert ccache.credentials.latest_end == max(ends, default=None)


def _server(number: int, end: int | None) -> Principal:
    """A service; where there is no end, the like of it among the configuration entries."""
    if end is None:
        return Principal(0, b"X-CACHECONF:", (b"krb5_ccache_conf_data", b"%d" % number))
    return service(number)


def test_removing_many_tickets_scans_once(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """REMOVE_CRED of many tickets scans the remaining ones once, not once for each."""
    tickets = [ticket(service(number), ends=3000 - number) for number in range(200)]
    left = parse_credential(credential_bytes(HTTP, is_skey=True, times=(1000, 1000, 2000, 3000)))
    collection.replace(b"1000", ALICE, 0, [*tickets, left], None)
    looked = looked_at(monkeypatch)
    collection.remove_credentials(existing(collection, b"1000"), Tag(is_skey=False), Match.IS_SKEY)
    assert looked == [2000]
    assert expires(collection) == 2000


def test_store_rarely_scans_tickets(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A STORE scans all tickets only if it replaces the only one that ended last."""
    tickets = [ticket(service(number), ends=3000 - number // 2) for number in range(200)]
    collection.replace(b"1000", ALICE, 0, tickets, None)
    looked = looked_at(monkeypatch)
    ccache = existing(collection, b"1000")
    collection.store(ccache, ticket(service(0), ends=10))
    collection.store(ccache, ticket(service(100), ends=10))
    assert looked == [10, 10]
    collection.store(ccache, ticket(service(1), ends=10))
    assert len(looked) == 3 + 200
    assert ccache.expires == 2999


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The ends that are looked at from now on."""
    looked: list[int | None] = []
    add = LatestEnd.add

    def counting(latest: LatestEnd, end: int | None) -> None:
        looked.append(end)
        add(latest, end)

    monkeypatch.setattr(LatestEnd, "add", counting)
    return looked


# What is removed because it has expired


def fill(collection: Collection, ends: dict[bytes, int]) -> dict[bytes, bytes]:
    """Give each ccache one ticket of this end; their UUIDs."""
    for name, end in ends.items():
        collection.replace(name, ALICE, 0, [ticket(ends=end)], None)
    collection.take_changes()
    return {ccache.name: ccache.uuid for ccache in collection}


def test_expired_ccaches_are_removed(collection: Collection) -> None:
    """Of the named ccaches those that have expired are removed, and each is recorded."""
    uuids = fill(collection, {b"1000": 1000, b"1000:a": 1001, b"1000:b": 0, b"1000:c": 999, b"1000:d": 1})
    asked = [uuids[name] for name in (b"1000", b"1000:a", b"1000:b", b"1000:c")]
    collection.remove_expired([bytes(16), *asked], 1000)
    assert names(collection) == [b"1000:a", b"1000:b", b"1000:d"]
    removals = [Removal(name, "expired_retention") for name in (b"1000", b"1000:c")]
    assert removals_in(collection.take_changes()) == removals
    assert removals_in(collection.take_changes()) == []


def test_default_outlives_an_expired_ccache(collection: Collection) -> None:
    """A default that named an expired ccache stays chosen, also after the last ccache is removed."""
    uuids = fill(collection, {b"1000:a": 1, b"1000:b": 2})
    collection.set_default(b"1000:a")
    collection.remove_expired([uuids[b"1000:a"]], 10)
    assert collection.default_name == b"1000:a"
    assert collection.shared_default() == b"1000:b"
    collection.remove_expired([uuids[b"1000:b"]], 10)
    assert collection.default_name == collection.shared_default() == b"1000:a"


def test_unavailable_ccache_never_expires(collection: Collection) -> None:
    """A ccache whose secrets cannot be read is never removed for its age."""
    collection.unavailable[b"1000:broken"] = b"u" * 16
    before = contents.contents(collection)
    collection.remove_expired([b"u" * 16], LAST)
    assert contents.contents(collection) == before
    assert collection.take_changes() == []
