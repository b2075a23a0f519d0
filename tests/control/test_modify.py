"""destroy, reap and switch."""

import asyncio
from typing import Any, NamedTuple

import pytest

from pykcm.config import Config
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.store.interface import Store, StoreError
from tests.builders import ALICE, TGS, Clock, credential_bytes
from tests.control.controlling import Controlling
from tests.control.following import Following
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Server
from tests.server.programs import listed


@pytest.fixture
def filled(server: Server) -> Server:
    """1000 has one that expires at 1400 and one that does not, 2000 has one that expires at 1500 (now)."""
    for uid, name, end in ((1000, b"1000:old", 1400), (1000, b"1000:new", 9000), (2000, b"2000", 1500)):
        client = server.ask_as(uid)
        client.initialize(name, ALICE)
        client.store(name, credential_bytes(TGS, times=(1, 1, end, 0)))
    return server


def test_destroy_removes_one_ccache(filled: Server, control: Controlling) -> None:
    """The ccache is removed, also from the store, and no other is."""
    assert control.ask("destroy", name=b"1000:new") == [{"uid": 1000, "name": b"1000:new"}]
    filled.collection_cache.drop(1000)
    assert listed(filled.ask_as(1000)) == [b"1000:old"]
    assert listed(filled.ask_as(2000)) == [b"2000"]
    with pytest.raises(ControlError, match="no such ccache"):
        control.ask("destroy", name=b"1000:new")


def test_destroy_removes_all_ccaches_of_a_uid(filled: Server, control: Controlling) -> None:
    """All ccaches of one UID are removed, and no other UID's."""
    assert [each["name"] for each in control.ask("destroy", uid=1000)] == [b"1000:old", b"1000:new"]
    assert listed(filled.ask_as(1000)) == []
    assert listed(filled.ask_as(2000)) == [b"2000"]
    assert control.ask("destroy", uid=1000) == []


def test_destroy_removes_expired_ccaches_of_all_uids(filled: Server, control: Controlling) -> None:
    """All ccaches whose tickets have all ended are removed."""
    assert [each["name"] for each in control.ask("destroy", expired=True)] == [b"1000:old", b"2000"]
    assert listed(filled.ask_as(1000)) == [b"1000:new"]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"name": b"1000", "uid": 1000}, {"uid": 1000, "expired": True}, {"uid": -1}, {"uid": 2**32}],
)
def test_destroy_needs_exactly_one_argument(
    filled: Server, control: Controlling, arguments: dict[str, Any]
) -> None:
    """One argument says what to destroy; without it, or with more, nothing is destroyed."""
    with pytest.raises(ControlError) as caught:
        control.ask("destroy", **arguments)
    assert caught.value.code == ErrorCode.ARGUMENTS
    assert len(listed(filled.ask_as(1000))) == 2


def test_destroy_that_the_store_refuses_changes_nothing(filled: Server, control: Controlling) -> None:
    """If the store refuses, the ccache is still there."""
    filled.store.refusal = lambda _: StoreError("no space")
    with pytest.raises(StoreError):
        control.ask("destroy", name=b"1000:new")
    filled.store.refusal = lambda _: None
    assert b"1000:new" in listed(filled.ask_as(1000))


def test_destroy_removes_only_ccaches_that_the_peer_may_change(runner: asyncio.Runner, store: Store) -> None:
    """Root destroys what its label may change, and does not learn of other ccaches."""
    server = Server(runner, store, policy=Mcs(CONTAINER_2))
    control = Controlling(server)
    server.ask_as(1000, CONTAINER_1).initialize(b"1000:one", ALICE)
    server.ask_as(1000, HOST_LOW).initialize(b"1000:low", ALICE)
    assert control.ask("destroy", uid=1000, label=CONTAINER_2) == []
    for name, code in ((b"1000:one", ErrorCode.NOT_FOUND), (b"1000:low", ErrorCode.PERMISSION)):
        with pytest.raises(ControlError) as caught:
            control.ask("destroy", name=name, label=CONTAINER_2)
        assert caught.value.code == code
    assert len(control.ask("destroy", uid=1000, label=HOST)) == 2


def test_reap_removes_what_the_reaper_would(filled: Server, control: Controlling) -> None:
    """`reap` removes the ccaches that the reaper would remove, with the configured retention."""
    control.ask("reap")
    assert control.summary == {"ccaches": 0}
    filled.clock.now = 1400 + 86400
    control.ask("reap")
    assert control.summary == {"ccaches": 1}
    filled.clock.now = 1500 + 86400
    control.ask("reap")
    assert control.summary == {"ccaches": 1}
    assert listed(filled.ask_as(1000)) == [b"1000:new"]


DAY = 86400


class Doubted(NamedTuple):
    server: Server
    control: Controlling


@pytest.fixture
def doubted(runner: asyncio.Runner, store: Store) -> Doubted:
    """A clock that was set forward by three days: one ccache had expired before, and another has not."""
    server = Server(runner, store, steady=Clock(0))
    control = Controlling(server, Config(expired_retention=0))
    for name, end in ((b"1000:old", 1400), (b"1000:new", 9000)):
        server.ask_as(1000).replace(name, 0, ALICE, [credential_bytes(TGS, times=(1, 1, end, 0))])
    server.clock.now += 3 * DAY
    return Doubted(server, control)


DOUBT = {"moved": 3 * DAY, "left": 3600}


def test_reap_reports_a_doubted_clock(doubted: Doubted) -> None:
    """During a doubt ccaches that are valid by the time before are kept, and the summary says so."""
    doubted.control.ask("reap")
    assert doubted.control.summary == {"ccaches": 1, "clock_doubt": DOUBT}
    assert listed(doubted.server.ask_as(1000)) == [b"1000:new"]


def test_reap_with_trust_clock_ends_the_doubt(doubted: Doubted) -> None:
    """An administrator can confirm the clock, which ends the doubt."""
    doubted.control.ask("reap", trust_clock=True)
    assert doubted.control.summary == {"ccaches": 2}
    assert listed(doubted.server.ask_as(1000)) == []
    assert doubted.server.checked_clock.is_believed()


def test_destroy_expired_reports_a_doubted_clock(doubted: Doubted) -> None:
    """Destroying expired ccaches reports a doubt as well, and agrees with the list of expired ones."""
    (row, _) = doubted.control.ask("list", expired=True)
    assert row["ccache"]["name"] == b"1000:old"
    assert doubted.control.ask("destroy", expired=True) == [{"uid": 1000, "name": b"1000:old"}]
    assert doubted.control.summary == {"clock_doubt": DOUBT}
    assert listed(doubted.server.ask_as(1000)) == [b"1000:new"]
    # A named ccache is destroyed, whatever the clock says.
    assert len(doubted.control.ask("destroy", uid=1000)) == 1
    assert doubted.control.summary == {}


def test_switch_moves_the_default(filled: Server, control: Controlling) -> None:
    """The UID's default is another one, also in the store."""
    control.ask("switch", uid=1000, name=b"1000:new")
    filled.collection_cache.drop(1000)
    assert filled.ask_as(1000).get_default_cache() == b"1000:new"


def test_confined_root_may_neither_switch_nor_reap(runner: asyncio.Runner, store: Store) -> None:
    """Root in some categories may neither move the shared default nor reap."""
    server = Server(runner, store, policy=Mcs())
    host = server.ask_as(1000, HOST)
    host.initialize(b"1000:host", ALICE)
    host.set_default_cache(b"1000:host")
    server.ask_as(1000, CONTAINER_1).initialize(b"1000:one", ALICE)
    control = Controlling(server)
    for request, arguments in (("switch", {"uid": 1000, "name": b"1000:one"}), ("reap", {})):
        with pytest.raises(ControlError) as caught:
            control.ask(request, label=CONTAINER_1, **arguments)
        assert caught.value.code == ErrorCode.PERMISSION
    assert host.get_default_cache() == b"1000:host"
    control.ask("switch", label=HOST, uid=1000, name=b"1000:one")
    assert host.get_default_cache() == b"1000:one"
    control.ask("reap", label=HOST)
    assert control.summary == {"ccaches": 0}


@pytest.mark.parametrize(
    ("uid", "name", "code"),
    [(1000, b"2000", ErrorCode.ARGUMENTS), (1000, b"1000:missing", ErrorCode.NOT_FOUND)],
)
def test_switch_needs_an_existing_ccache_of_the_uid(
    filled: Server, control: Controlling, uid: int, name: bytes, code: ErrorCode
) -> None:
    """The new default must be an existing ccache of the UID."""
    with pytest.raises(ControlError) as caught:
        control.ask("switch", uid=uid, name=name)
    assert caught.value.code == code
    filled.ask_as(1000).initialize(b"1000", ALICE)
    assert filled.ask_as(1000).get_default_cache() == b"1000"


def large(number: int) -> bytes:
    """A credential with a ticket of 1.5 MiB."""
    return credential_bytes(TGS, ticket=bytes([number]) * (3 << 19), times=(1, 1, 9000, 0))


def test_destroy_of_large_ccaches_takes_several_commits(server: Server, control: Controlling) -> None:
    """One commit destroys at most 4 MiB, and others are served in between."""
    client = server.ask_as(1000)
    names = [b"1000:%d" % number for number in range(5)]
    for number, name in enumerate(names):
        client.replace(name, 0, ALICE, [large(number)])
    commits = len(server.store.commits)
    assert [each["name"] for each in control.ask("destroy", uid=1000)] == names
    assert len(server.store.commits) - commits == 3
    assert listed(client) == []


def test_destroy_keeps_ccaches_created_meanwhile(server: Server, control: Controlling) -> None:
    """A ccache that is created during the request stays, also under an old name."""
    client = server.ask_as(1000)
    for number in range(4):
        client.replace(b"1000:%d" % number, 0, ALICE, [large(number)])
    destroying = Following(server, control, "destroy", uid=1000)
    assert destroying.first["name"] == b"1000:0"
    client.destroy(b"1000:2")
    for name in (b"1000:2", b"1000:new"):
        client.initialize(name, ALICE)
    assert [each["name"] for each in destroying.take(2)] == [b"1000:1", b"1000:3"]
    with pytest.raises(StopAsyncIteration):
        destroying.next()
    assert listed(client) == [b"1000:2", b"1000:new"]


def test_destroy_expired_keeps_ccaches_renewed_meanwhile(server: Server, control: Controlling) -> None:
    """A ccache is checked for expiry at the moment it would be destroyed."""
    client = server.ask_as(1000)
    for number in range(3):
        ticket = credential_bytes(TGS, ticket=bytes(3 << 19), times=(1, 1, 1400, 0))
        client.replace(b"1000:%d" % number, 0, ALICE, [ticket])
    destroying = Following(server, control, "destroy", expired=True)
    client.store(b"1000:2", credential_bytes(TGS, times=(1, 1, 9000, 0)))
    assert [destroying.first["name"], destroying.next()["name"]] == [b"1000:0", b"1000:1"]
    with pytest.raises(StopAsyncIteration):
        destroying.next()
    assert listed(client) == [b"1000:2"]
