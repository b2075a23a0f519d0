"""What those who watch are told of changes, refusals and nothing else."""

import asyncio
import errno
from typing import Any

import pytest

from pykcm.ccaches.changes import Removal
from pykcm.ccaches.quotas import Quotas
from pykcm.control.snapshots import unconstrained_default
from pykcm.engine.events import Event, Kind, Watch
from pykcm.protocol.codes import Code, KcmError
from pykcm.server.connection import State
from pykcm.server.connections import Limits
from pykcm.store.interface import Store, StoreError
from pykcm.store.memory import MemoryStore
from pykcm.store.tree import Put, Secret, ccache_container, split_ccache_name
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    configuration,
    credential_bytes,
    credential_of_size,
    refused,
    service,
    ticket,
)
from tests.peer.mcs import CONTAINER_1, HOST, Mcs
from tests.server.asking import Asking, Server
from tests.server.conftest import Play
from tests.server.listening import NOOP, UID, Listening
from tests.server.waiting import until
from tests.storing import commit_changes, secrets_of


class Told(list[Event]):
    """The events of a service, as they are told."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        server.engine.watchers.append(Watch(self.append, unconstrained_default))

    def take(self) -> list[tuple[Any, ...]]:
        """Kind, ccache and reason of each since the last call."""
        taken = [(each.kind, each.ccache, each.reason) for each in self]
        self.clear()
        return taken


@pytest.fixture
def told(server: Server) -> Told:
    """What one who watches is told."""
    return Told(server)


def test_created_and_replaced(alice: Asking, told: Told) -> None:
    """A ccache of a new name is created, one that is written anew is replaced, with the new principal."""
    alice.initialize(b"1000", ALICE)
    alice.replace(b"1000", 0, BOB, [credential_bytes(TGS, BOB)])
    alice.initialize(b"1000", ALICE)
    assert [(each.kind, each.uid, each.ccache, each.principal) for each in told] == [
        (Kind.CREATED, 1000, b"1000", ALICE),
        (Kind.REPLACED, 1000, b"1000", BOB),
        (Kind.REPLACED, 1000, b"1000", ALICE),
    ]


def test_a_stored_ticket_is_an_event(alice: Asking, told: Told) -> None:
    """The event names the ticket's server, and says whether a TGT was renewed; configuration is no event."""
    alice.initialize(b"1000", ALICE)
    told.clear()
    alice.store(b"1000", ticket(TGS, ends=2000).blob)
    alice.store(b"1000", ticket(TGS, ends=3000).blob)
    alice.store(b"1000", ticket(HTTP, ends=3000).blob)
    alice.store(b"1000", configuration(b"proxy_impersonator", b"x").blob)
    assert [(each.kind, each.ccache, each.server, each.is_renewed) for each in told] == [
        (Kind.STORED, b"1000", TGS, False),
        (Kind.STORED, b"1000", TGS, True),
        (Kind.STORED, b"1000", HTTP, False),
    ]


def test_a_replaced_ccache_with_a_later_tgt_is_renewed(alice: Asking, told: Told) -> None:
    """A REPLACE by the same principal with a TGT that ends later is a renewal, another principal is not."""
    alice.replace(b"1000", 0, ALICE, [ticket(TGS, ends=2000).blob])
    alice.replace(b"1000", 0, ALICE, [ticket(TGS, ends=3000).blob])
    alice.replace(b"1000", 0, BOB, [ticket(TGS, ends=4000).blob])
    assert [(each.kind, each.is_renewed) for each in told] == [
        (Kind.CREATED, False),
        (Kind.REPLACED, True),
        (Kind.REPLACED, False),
    ]


def test_reading_and_the_clock_offset_are_no_event(alice: Asking, told: Told) -> None:
    """Neither reading a ccache nor setting its KDC offset is reported."""
    alice.initialize(b"1000", ALICE)
    told.clear()
    alice.set_kdc_offset(b"1000", 5)
    alice.get_principal(b"1000")
    with refused(Code.FCC_NOFILE):
        alice.get_principal(b"1000:missing")
    assert told == []


def test_destroyed(alice: Asking, told: Told) -> None:
    """With the principal that it had."""
    alice.initialize(b"1000:a", ALICE)
    alice.initialize(b"1000", BOB)
    told.clear()
    alice.destroy(b"1000:a")
    assert [(each.kind, each.ccache, each.principal) for each in told] == [(Kind.DESTROYED, b"1000:a", ALICE)]


def test_moved(root: Asking, told: Told) -> None:
    """What is moved goes under one name and comes under the other, also to another user."""
    root.initialize(b"1000", ALICE)
    root.initialize(b"1000:a", ALICE)
    root.initialize(b"1000:b", BOB)
    told.clear()
    root.move_cache(b"1000:a", b"1000:b")
    assert told.take() == [(Kind.REPLACED, b"1000:b", ""), (Kind.DESTROYED, b"1000:a", "")]
    root.move_cache(b"1000:b", b"2000")
    assert sorted((each.uid, each.kind) for each in told) == [(1000, Kind.DESTROYED), (2000, Kind.CREATED)]


def test_default(alice: Asking, told: Told) -> None:
    """A default that moves is told of with its new name; one that stays is not."""
    alice.initialize(b"1000:a", ALICE)
    alice.initialize(b"1000:b", BOB)
    told.clear()
    alice.set_default_cache(b"1000:b")
    alice.set_default_cache(b"1000:b")
    assert told.take() == [(Kind.DEFAULT, b"1000:b", "")]
    alice.destroy(b"1000:a")
    alice.destroy(b"1000:b")
    # An empty collection keeps its default.
    assert told.take() == [(Kind.DESTROYED, b"1000:a", ""), (Kind.DESTROYED, b"1000:b", "")]


def test_default_that_another_ccache_takes_the_place_of(alice: Asking, told: Told) -> None:
    """What clients are given counts: choosing a name moves nothing until a ccache has it."""
    alice.initialize(b"1000", ALICE)
    told.clear()
    alice.set_default_cache(b"1000:b")
    assert told.take() == []
    alice.initialize(b"1000:b", BOB)
    assert told.take() == [(Kind.CREATED, b"1000:b", ""), (Kind.DEFAULT, b"1000:b", "")]
    alice.destroy(b"1000:b")
    assert told.take() == [(Kind.DESTROYED, b"1000:b", ""), (Kind.DEFAULT, b"1000", "")]


def test_root_that_chooses_anothers_ccache(root: Asking, alice: Asking, told: Told) -> None:
    """Root's default may be a user's ccache: it is told, although root has ccaches of its own."""
    alice.initialize(b"1000", ALICE)
    root.initialize(b"0:own", ALICE)
    told.clear()
    root.set_default_cache(b"1000")
    assert told.take() == [(Kind.DEFAULT, b"1000", "")]
    root.initialize(b"0:another", ALICE)
    assert told.take() == [(Kind.CREATED, b"0:another", "")]


def test_evicted(runner: asyncio.Runner) -> None:
    """What makes room is told of with the option that demanded it: a ccache, or some of its tickets."""
    server = Server(runner, MemoryStore(), quotas=Quotas(max_uid_ccaches=1, max_ccache_size=6000))
    alice, told = server.ask_as(1000), Told(server)
    alice.initialize(b"1000:old", ALICE)
    alice.store(b"1000:old", ticket(TGS, ends=1400).blob)
    told.clear()
    alice.initialize(b"1000:new", ALICE)
    assert told.take() == [
        (Kind.CREATED, b"1000:new", ""),
        (Kind.EVICTED, b"1000:old", "max_uid_ccaches"),
        (Kind.DEFAULT, b"1000:new", ""),
    ]
    for number in range(3):
        alice.store(b"1000:new", credential_of_size(500, service(number)).blob)
    told[:] = [each for each in told if each.kind is not Kind.STORED]
    assert [each.tickets for each in told] == [1]
    assert told.take() == [(Kind.EVICTED, b"1000:new", "max_ccache_size")]


def test_expired(server: Server, alice: Asking, told: Told) -> None:
    """What the reaper removes has expired."""
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", ticket(TGS, ends=1400).blob)
    (uuid,) = alice.get_cache_uuid_list()
    told.clear()
    server.runner.run(server.change(1000, lambda each: each.remove_expired([uuid], 1500)))
    assert told.take() == [(Kind.EXPIRED, b"1000", "expired_retention")]


def test_destroying_a_damaged_one(server: Server, alice: Asking, store: Store) -> None:
    """A ccache that cannot be read is destroyed like any other."""
    alice.initialize(b"1000", ALICE)
    secrets: list[Secret] = server.runner.run(secrets_of(store, 1000))
    uuid, name = split_ccache_name(secrets[0].name)
    server.runner.run(commit_changes(store, [Put(ccache_container(1000, uuid, name), "00" * 16, b"damaged")]))
    again = server.restarted()
    told = Told(again)
    again.ask_as(1000).destroy(b"1000")
    assert told.take() == [(Kind.DESTROYED, b"1000", "")]


def test_only_what_is_durable(server: Server, alice: Asking, told: Told) -> None:
    """A change that the store refuses has not happened."""
    server.store.refusal = lambda _: StoreError("no space left", errno.ENOSPC)
    with refused(errno.ENOSPC):
        alice.initialize(b"1000", ALICE)
    assert told == []


def test_refused(runner: asyncio.Runner) -> None:
    """For a quota or for want of permission, whatever the client is told; the request's own UID has asked."""
    server = Server(runner, MemoryStore(), quotas=Quotas(max_uid_ccaches=1))
    alice, bob, told = server.ask_as(1000), server.ask_as(2000), Told(server)
    alice.initialize(b"1000", ALICE)
    told.clear()
    with refused(errno.EDQUOT):
        alice.initialize(b"1000:more", ALICE)
    with refused(Code.FCC_PERM):
        bob.initialize(b"1000", BOB)
    with refused(Code.FCC_NOFILE):
        bob.get_principal(b"1000")
    with refused(Code.CC_END):
        bob.get_cred_by_uuid(b"1000", bytes(16))
    assert {each.uid for each in told[1:]} == {2000}
    assert all(each.detail for each in told)
    assert told.take() == [
        (Kind.REFUSED, b"1000:more", "quota"),
        (Kind.REFUSED, b"1000", "permission"),
        (Kind.REFUSED, b"1000", "permission"),
        (Kind.REFUSED, b"1000", "permission"),
    ]


def test_refused_connections(play: Play) -> None:
    """A connection for which there is no room is told of."""

    async def scenario(listening: Listening) -> None:
        told: list[Event] = []
        listening.engine.watchers.append(Watch(told.append, unconstrained_default))
        client = await listening.connected()
        await client.send(NOOP[:5])
        await until(lambda: listening.made[0].state is State.RECEIVING)
        assert await listening.client().is_closed()
        assert [(each.kind, each.uid, each.reason) for each in told] == [(Kind.REFUSED, UID, "connection")]

    play(scenario, limits=Limits(uid_connections=1))


def test_labels(runner: asyncio.Runner) -> None:
    """An event has the label of its ccache, and a refusal that of who has asked."""
    server = Server(runner, MemoryStore(), policy=Mcs())
    host, one, told = server.ask_as(1000, HOST), server.ask_as(1000, CONTAINER_1), Told(server)
    host.initialize(b"1000", ALICE)
    name = one.get_default_cache()
    one.initialize(name, BOB)
    with refused(Code.FCC_PERM):
        one.initialize(b"1000", BOB)
    host.destroy(name)
    created, default, *others = told
    assert (created.kind, created.label) == (Kind.CREATED, HOST)
    # Whoever could read what the container creates may know what its default is.
    assert (default.kind, default.ccache) == (Kind.DEFAULT, name)
    assert default.label is not None
    assert default.label.endswith(":s0:c1,c2")
    assert [(each.kind, each.label) for each in others if each.kind is not Kind.DEFAULT] == [
        (Kind.CREATED, CONTAINER_1),
        (Kind.REFUSED, CONTAINER_1),
        (Kind.DESTROYED, CONTAINER_1),
    ]


@pytest.fixture
def broken() -> Watch:
    """One who watches and cannot be told anything."""

    def fail(_: Event) -> None:
        raise RuntimeError("cannot be told")

    return Watch(fail, unconstrained_default)


def test_who_fails_to_be_told(
    server: Server, alice: Asking, broken: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """The request succeeds all the same, others are told, and the log has it."""
    server.engine.watchers.append(broken)
    told = Told(server)
    alice.initialize(b"1000", ALICE)
    assert told.take() == [(Kind.CREATED, b"1000", "")]
    assert alice.get_principal(b"1000") == ALICE
    assert caplog.text.count("an observer (pykcmctl watch or trace) is ended by an error in pykcm") == 1
    assert broken not in server.engine.watchers


def test_a_tracer_that_fails(server: Server, alice: Asking, caplog: pytest.LogCaptureFixture) -> None:
    """The same of those who trace."""

    def fail(_: object) -> None:
        raise RuntimeError("cannot be told")

    server.dispatcher.tracers.append(fail)
    alice.initialize(b"1000", ALICE)
    assert alice.get_principal(b"1000") == ALICE
    assert caplog.text.count("an observer (pykcmctl watch or trace) is ended by an error in pykcm") == 1
    assert server.dispatcher.tracers == []


@pytest.mark.parametrize("method", ["before", "committed", "refused", "connection_refused"])
def test_an_error_in_a_watcher_ends_the_watcher_alone(
    server: Server, alice: Asking, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Whichever method of a watcher raises, requests are answered as ever, and the watcher learns of it."""

    def fail(*_: object) -> None:
        raise RuntimeError("cannot be told")

    watcher = Watch(lambda _: None, unconstrained_default)
    failures: list[bool] = []
    server.engine.watchers.add(watcher, lambda: failures.append(True))
    monkeypatch.setattr(Watch, method, fail)
    alice.initialize(b"1000", ALICE)
    with pytest.raises(KcmError):
        alice.get_principal(b"1001")
    server.dispatcher.connection_refused(1000, None, "for a test")
    alice.destroy(b"1000")
    assert failures == [True]
    assert watcher not in server.engine.watchers


@pytest.mark.parametrize(
    "part",
    [
        "pykcm.engine.collection_cache.CollectionCache.weigh",
        "pykcm.engine.collection_cache.CollectionCache.make_room",
        "pykcm.engine.engine.log_removals",
        "pykcm.engine.removals.RemovalCounts.add",
    ],
)
def test_an_error_in_bookkeeping_does_not_fail_a_durable_change(
    server: Server, alice: Asking, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A change that is durable is answered as such, whatever cannot be counted or logged; reads agree."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("cannot be counted")

    alice.initialize(b"1000", ALICE)
    with monkeypatch.context() as patched:
        patched.setattr(part, fail)
        removals = [Removal(b"1000:gone", "max_uid_size", 1)]
        patched.setattr("pykcm.engine.engine.removals_in", lambda _: removals)
        alice.initialize(b"1000:other", BOB)
    assert alice.get_principal(b"1000:other") == BOB
    assert server.restarted().ask_as(1000).get_principal(b"1000:other") == BOB


def test_nobody_watches(server: Server, alice: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is compared, and nothing is made for nobody."""

    def never(*_: object) -> None:
        raise AssertionError("nobody watches")

    monkeypatch.setattr(Watch, "before", never)
    monkeypatch.setattr(server.dispatcher, "_tell_tracers", never)
    alice.initialize(b"1000", ALICE)
    assert alice.get_principal(b"1000") == ALICE
