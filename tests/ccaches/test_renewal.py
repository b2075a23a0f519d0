"""Which TGTs can be renewed, and when they are due."""

import pytest

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.renewal import Schedule, is_renewal_off, renewable_tgts, why_no_renewal
from pykcm.protocol.credential import Credential
from tests.builders import ALICE, BOB, HTTP, configuration, principal, tgs
from tests.engine.renewing import RENEWABLE, tgt


def ccache_of(*credentials: Credential, kdc_offset: int = 0) -> CCache:
    ccache = CCache(b"u" * 16, b"1000", ALICE, kdc_offset=kdc_offset)
    for number, each in enumerate(credentials):
        ccache.credentials.put(b"%016d" % number, each)
    return ccache


def test_renewable_tgts_of_all_realms_are_found() -> None:
    """The TGT of the own realm, a delegated one, and those of other realms can be renewed."""
    delegated = tgt(flags=RENEWABLE & ~0x00400000, server=principal("krbtgt/OTHER@OTHER"))
    cross = tgt(server=tgs(1))
    found = renewable_tgts(ccache_of(tgt(), delegated, cross))
    assert [(each.credential, each.realm) for each in found] == [
        (tgt(), b"PYKCM.TEST"),
        (delegated, b"OTHER"),
        (cross, b"PYKCM.TEST"),
    ]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(tgt(server=HTTP), id="service ticket"),
        pytest.param(tgt(flags=0x40610000), id="not renewable"),
        pytest.param(tgt(flags=RENEWABLE | 0x01000000), id="not valid yet"),
        pytest.param(tgt(end=1100, renew_until=1100), id="renewed to the end"),
        pytest.param(tgt(begin=1100, end=1100), id="without a life"),
        pytest.param(tgt(is_skey=True), id="of a service's session key"),
        pytest.param(tgt(ticket=bytes(600_000)), id="too large"),
        pytest.param(configuration(b"fast_avail", b"yes"), id="configuration"),
    ],
)
def test_other_entries_are_not_renewed(other: Credential) -> None:
    """Nothing but a valid TGT that can live longer is renewed."""
    assert renewable_tgts(ccache_of(other)) == []


def test_tgts_of_one_ccache_are_limited() -> None:
    """Of many TGTs in one ccache some are renewed, first that of the own realm."""
    others = [tgt(server=principal(f"krbtgt/R{number}@R{number}"), end=1200 + number) for number in range(20)]
    found = renewable_tgts(ccache_of(*others, tgt()))
    assert [each.realm for each in found] == [b"PYKCM.TEST", *(b"R%d" % n for n in range(19, 12, -1))]


def test_times_are_by_this_machines_clock() -> None:
    """The KDC offset is subtracted from the ticket's times."""
    (found,) = renewable_tgts(ccache_of(tgt(1000, 1100, 2000), kdc_offset=300))
    assert (found.begin, found.end, found.renew_until) == (700, 800, 1700)


@pytest.mark.parametrize(
    ("renew_at", "interval", "jitter", "due"),
    [
        (0.5, 0, 0.0, 1050),
        (0.5, 0, 0.5, 1055),
        (0.9, 0, 0.0, 1090),
        (0.9, 0, 0.999, 1095),
        (0.5, 30, 0.0, 1050),
        (0.5, 28, 0.0, 1064),
        (0.5, 90, 0.0, 1080),
        (0.5, 1000, 0.0, 1050),
    ],
)
def test_due_time_follows_from_the_options(
    renew_at: float, interval: float, jitter: float, due: float
) -> None:
    """A TGT is due after its share of the life; an interval delays it, unless it could end before."""
    (found,) = renewable_tgts(ccache_of(tgt(1000, 1100)))
    assert found.due(Schedule(renew_at, interval), jitter) == pytest.approx(due, abs=0.1)


@pytest.mark.parametrize(
    ("value", "is_off"),
    [(b"no", True), (b"NO\n", True), (b"off", True), (b"0", True), (b"yes", False), (b"", False)],
)
def test_user_switches_renewal_off(value: bytes, is_off: bool) -> None:
    """With the configuration entry pykcm_renewal = no, nothing in the ccache is renewed."""
    ccache = ccache_of(tgt(), configuration(b"pykcm_renewal", value))
    assert is_renewal_off(ccache) is is_off
    assert bool(renewable_tgts(ccache)) is not is_off


def test_other_configuration_does_not_switch_renewal_off() -> None:
    """Other entries, and the same key for a server, are another program's."""
    assert not is_renewal_off(ccache_of(configuration(b"refresh_time", b"no")))


OLD, NEW = tgt(1000, 1100), tgt(1050, 1150)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (NEW, ""),
        (tgt(1050, 1150, enctype=17), ""),
        (tgt(1050, 1150, client=BOB), "another client's"),
        (tgt(1050, 1150, server=tgs(1)), "another server"),
        (tgt(1050, 1150, is_skey=True), "no valid ticket"),
        (tgt(1050, 1150, flags=RENEWABLE | 0x01000000), "no valid ticket"),
        (tgt(1050, 1150, ticket=b""), "no valid ticket"),
        (tgt(1050, 1100), "not end later"),
        (tgt(1050, 1150, ticket=bytes(20_000)), "bytes"),
    ],
)
def test_only_the_same_tgt_with_a_later_end_is_a_renewal(new: Credential, reason: str) -> None:
    """A new TGT has the client and server of the old one, ends later, and has a sane size."""
    assert reason in why_no_renewal(OLD, new)
    assert bool(reason) is bool(why_no_renewal(OLD, new))
