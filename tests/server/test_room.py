"""Removals that make room at a quota, as clients and the log show them: on each store, after a restart."""

import asyncio
import errno
import logging

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine import removals
from pykcm.store.interface import Store, StoreError
from tests.builders import ALICE, BOB, HTTP, TGS, Clock, principal_bytes, refused, service, tag_for, ticket
from tests.ccaches.contents import contents
from tests.server.asking import Server
from tests.server.programs import listed

pytestmark = pytest.mark.usefixtures("bytes_alone")

P = len(principal_bytes(ALICE))
VALID, EXPIRED, LONG_EXPIRED = ticket(ends=2000).blob, ticket(ends=1400).blob, ticket(ends=1300).blob
OLD, OLDER = (ticket(service(n), issued=1000 - n).blob for n in range(2))


def limited(runner: asyncio.Runner, store: Store, **quotas: int) -> Server:
    return Server(runner, store, quotas=Quotas(**quotas))


def removal_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str, int]]:
    """Message, and the fields reason, ccache and UID, of each log line about a removal."""
    return [
        (
            record.getMessage(),
            record.__dict__["KCM_REASON"],
            record.__dict__["KCM_CCACHE"],
            record.__dict__["KCM_UID"],
        )
        for record in caplog.records
        if record.name == removals.__name__
    ]


@pytest.mark.parametrize(
    ("option", "limit"), [("max_uid_ccaches", 3), ("max_ccaches", 3), ("max_uid_size", 3 * (P + 200))]
)
def test_expired_ccaches_make_room(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture, option: str, limit: int
) -> None:
    """An expired ccache is removed for a new one, also from the store, and the log says why."""
    caplog.set_level(logging.INFO)
    server = limited(runner, store, **{option: limit})
    alice = server.ask_as(1000)
    for name, blob in [(b"1000:e", EXPIRED), (b"1000:l\n", LONG_EXPIRED), (b"1000:v", VALID)]:
        alice.replace(name, 0, ALICE, [blob])
    alice.replace(b"1000", 0, BOB, [VALID])
    assert removal_lines(caplog) == [
        (f"UID 1000: expired ccache KCM:1000:l\\x0a removed ({option})", option, "1000:l\\x0a", 1000)
    ]
    for asking in (alice, server.restarted().ask_as(1000)):
        assert listed(asking) == [b"1000:e", b"1000:v", b"1000"]
    alice.replace(b"1000:a", 0, ALICE, [VALID])
    with refused(errno.EDQUOT):
        alice.replace(b"1000:b", 0, ALICE, [VALID])
    assert listed(server.restarted().ask_as(1000)) == [b"1000:v", b"1000", b"1000:a"]
    assert len(removal_lines(caplog)) == 2


def test_abandoned_logins_make_room_after_a_restart(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Ccaches without tickets refuse a login for a minute at most, also after a restart."""
    caplog.set_level(logging.INFO)
    server = limited(runner, store, max_uid_ccaches=64)
    alice = server.ask_as(1000)
    for number in range(64):
        alice.initialize(b"1000:%d" % number, ALICE)
    with refused(errno.EDQUOT):
        alice.initialize(b"1000:late", ALICE)
    restarted = Server(runner, store, quotas=Quotas(max_uid_ccaches=64), clock=Clock(server.clock.now + 61))
    restarted.ask_as(1000).replace(b"1000:late", 0, ALICE, [VALID])
    assert removal_lines(caplog) == [
        (
            "UID 1000: ccache KCM:1000:0, which has no tickets, removed (max_uid_ccaches)",
            "max_uid_ccaches",
            "1000:0",
            1000,
        )
    ]
    assert listed(restarted.ask_as(1000))[-1] == b"1000:late"


@pytest.mark.parametrize("option", ["max_ccache_size", "max_uid_size"])
def test_service_tickets_make_room(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    """Service tickets of the ccache are removed for a STORE, also from the store; one line in the log."""
    caplog.set_level(logging.INFO)
    server = limited(runner, store, **{option: P + 600})
    alice = server.ask_as(1000)
    alice.replace(b"1000", 0, ALICE, [OLD, VALID, OLDER])
    new = ticket(HTTP, size=400).blob
    alice.store(b"1000", new)
    message = f"UID 1000: 2 of the oldest service tickets removed from ccache KCM:1000 ({option})"
    assert removal_lines(caplog) == [(message, option, "1000", 1000)]
    for asking in (alice, server.restarted().ask_as(1000)):
        assert asking.get_cred_list(b"1000") == [VALID, new]
    with refused(errno.EDQUOT):
        alice.store(b"1000", ticket(HTTP, size=401).blob)
    assert server.restarted().ask_as(1000).get_cred_list(b"1000") == [VALID, new]
    assert len(removal_lines(caplog)) == 1


def test_refused_replace_removes_nothing(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A REPLACE that is refused at a quota removes nothing, not even expired ccaches."""
    caplog.set_level(logging.INFO)
    server = limited(runner, store, max_uid_size=2 * P + 800)
    alice = server.ask_as(1000)
    alice.replace(b"1000", 0, ALICE, [VALID, OLD])
    alice.replace(b"1000:e", 0, ALICE, [EXPIRED])
    before = contents(runner.run(server.collection_cache.get(1000)))
    server.store.commits.clear()
    sent = [VALID, OLD, OLDER, ticket(HTTP, size=201 + P + 200).blob]
    for name in (b"1000", b"1000:new"):
        with refused(errno.EDQUOT):
            alice.replace(name, 7, BOB, sent)
    assert server.store.commits == []
    assert contents(runner.run(server.collection_cache.get(1000))) == before
    assert contents(runner.run(server.restarted().collection_cache.get(1000))) == before
    assert removal_lines(caplog) == []
    alice.replace(b"1000", 7, BOB, [VALID, OLD, OLDER, ticket(HTTP, size=200 + P).blob])
    assert listed(alice) == [b"1000"]


def test_failed_commit_removes_nothing(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """If the transaction that needs room fails, nothing is removed or logged."""
    caplog.set_level(logging.INFO)
    server = limited(runner, store, max_ccaches=2, max_ccache_size=P + 400)
    alice = server.ask_as(1000)
    alice.replace(b"1000", 0, ALICE, [VALID, OLD])
    alice.replace(b"1000:e", 0, ALICE, [EXPIRED])
    before = contents(runner.run(server.collection_cache.get(1000)))
    server.store.refusal = lambda _: StoreError("the disk is full", errno.ENOSPC)
    with refused(errno.ENOSPC):
        alice.store(b"1000", OLDER)
    with refused(errno.ENOSPC):
        alice.replace(b"1000:new", 0, ALICE, [VALID])
    server.store.refusal = lambda _: None
    assert contents(runner.run(server.collection_cache.get(1000))) == before
    assert removal_lines(caplog) == []
    alice.store(b"1000", OLDER)
    alice.replace(b"1000:new", 0, ALICE, [VALID])
    assert listed(alice) == [b"1000", b"1000:new"]
    assert alice.get_cred_list(b"1000") == [VALID, OLDER]
    assert len(removal_lines(caplog)) == 2


def test_removal_is_logged_with_the_owners_uid(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """If a request of root makes room, the log line has the UID that the ccache belonged to."""
    caplog.set_level(logging.INFO)
    server = limited(runner, store, max_uid_ccaches=1)
    server.ask_as(1000).replace(b"1000", 0, ALICE, [EXPIRED])
    root = server.ask_as(0)
    root.replace(b"backup", 0, ALICE, [VALID])
    root.move_cache(b"backup", b"1000:a")
    assert listed(server.ask_as(1000)) == [b"1000:a"]
    assert removal_lines(caplog) == [
        ("UID 1000: expired ccache KCM:1000 removed (max_uid_ccaches)", "max_uid_ccaches", "1000", 1000)
    ]


def test_removal_does_not_depend_on_the_label(runner: asyncio.Runner, store: Store) -> None:
    """An expired ccache makes room whatever its SELinux label."""
    server = limited(runner, store, max_uid_ccaches=1)
    server.ask_as(1000, label="u:r:t:s0:c1").replace(b"1000", 0, ALICE, [EXPIRED])
    server.ask_as(1000, label="u:r:t:s0:c2").replace(b"1000:a", 0, ALICE, [VALID])
    assert listed(server.ask_as(1000)) == [b"1000:a"]


def test_removed_default_is_replaced_and_stays_chosen(runner: asyncio.Runner, store: Store) -> None:
    """Another ccache takes the place of a removed default, whose name stays the chosen one."""
    server = limited(runner, store, max_uid_ccaches=1)
    alice = server.ask_as(1000)
    alice.replace(b"1000:e", 0, ALICE, [EXPIRED])
    alice.set_default_cache(b"1000:e")
    alice.replace(b"1000:a", 0, ALICE, [VALID])
    for asking in (alice, server.restarted().ask_as(1000)):
        assert asking.get_default_cache() == b"1000:a"
    alice.destroy(b"1000:a")
    for asking in (alice, server.restarted().ask_as(1000)):
        assert asking.get_default_cache() == b"1000:e"


def test_expiry_survives_a_restart(runner: asyncio.Runner, store: Store) -> None:
    """A ccache expires at the same time after a restart, whether it has tickets, had some, or has none."""
    server = Server(runner, store)
    alice = server.ask_as(1000)
    alice.initialize(b"1000", ALICE)
    alice.replace(b"1000:a", 0, ALICE, [VALID])
    server.clock.now = 1700
    alice.remove_cred(b"1000:a", 0, tag_for(TGS))
    alice.initialize(b"1000:b", ALICE)
    alice.store(b"1000:b", VALID)
    alice.replace(b"1000:c", -300, ALICE, [VALID])
    collection = runner.run(server.collection_cache.get(1000))
    moments = [ccache.expires for ccache in collection]
    known = [moment for moment in moments if moment is not None]
    assert known == [1500 + 3600, 1700 + 3600, 2000, 2300]
    restarted = server.restarted()
    assert [ccache.expires for ccache in runner.run(restarted.collection_cache.get(1000))] == moments
    assert [each.expires for each in runner.run(store.expired(10_000, None, 9))] == sorted(known)
