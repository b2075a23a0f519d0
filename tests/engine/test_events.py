"""Events of committed changes and of refusals, as watchers get them."""

import asyncio
import errno

import pytest

from pykcm.ccaches.changes import Removal
from pykcm.ccaches.quotas import Quotas
from pykcm.control.snapshots import unconstrained_default
from pykcm.engine.events import Event, Kind, Watch
from pykcm.protocol.codes import Code
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
from tests.engine.event_log import EventLog
from tests.peer.mcs import CONTAINER_1, HOST, Mcs
from tests.server.asking import Asking, Server
from tests.server.listening import NOOP, UID, Listen
from tests.server.waiting import until
from tests.storing import EMBEDDED_STORES, commit_changes, secrets_of


@pytest.fixture
def events(server: Server) -> EventLog:
    """A watcher of the server."""
    return EventLog(server)


def test_new_name_is_created_and_known_name_is_replaced(alice: Asking, events: EventLog) -> None:
    """A ccache of a new name is created; one of a known name is replaced, with the new principal."""
    alice.initialize(b"1000", ALICE)
    alice.replace(b"1000", 0, BOB, [credential_bytes(TGS, BOB)])
    alice.initialize(b"1000", ALICE)
    assert [(each.kind, each.uid, each.ccache, each.principal) for each in events] == [
        (Kind.CREATED, 1000, b"1000", ALICE),
        (Kind.REPLACED, 1000, b"1000", BOB),
        (Kind.REPLACED, 1000, b"1000", ALICE),
    ]


def test_stored_ticket_is_an_event_with_its_server(alice: Asking, events: EventLog) -> None:
    """The event has the ticket's server, and whether a TGT was renewed; configuration is no event."""
    alice.initialize(b"1000", ALICE)
    events.clear()
    alice.store(b"1000", ticket(TGS, ends=2000).blob)
    alice.store(b"1000", ticket(TGS, ends=3000).blob)
    alice.store(b"1000", ticket(HTTP, ends=3000).blob)
    alice.store(b"1000", configuration(b"proxy_impersonator", b"x").blob)
    assert [(each.kind, each.ccache, each.server, each.is_renewed) for each in events] == [
        (Kind.STORED, b"1000", TGS, False),
        (Kind.STORED, b"1000", TGS, True),
        (Kind.STORED, b"1000", HTTP, False),
    ]


def test_replace_with_a_later_tgt_is_a_renewal(alice: Asking, events: EventLog) -> None:
    """A REPLACE by the same principal with a TGT that ends later is a renewal; another one is not."""
    alice.replace(b"1000", 0, ALICE, [ticket(TGS, ends=2000).blob])
    alice.replace(b"1000", 0, ALICE, [ticket(TGS, ends=3000).blob])
    alice.replace(b"1000", 0, BOB, [ticket(TGS, ends=4000).blob])
    assert [(each.kind, each.is_renewed) for each in events] == [
        (Kind.CREATED, False),
        (Kind.REPLACED, True),
        (Kind.REPLACED, False),
    ]


def test_reads_and_kdc_offsets_are_not_reported(alice: Asking, events: EventLog) -> None:
    """Neither reading a ccache nor setting its KDC offset is an event."""
    alice.initialize(b"1000", ALICE)
    events.clear()
    alice.set_kdc_offset(b"1000", 5)
    alice.get_principal(b"1000")
    with refused(Code.FCC_NOFILE):
        alice.get_principal(b"1000:missing")
    assert events == []


def test_destroyed_ccache_is_reported_with_its_principal(alice: Asking, events: EventLog) -> None:
    """The event has the principal of the destroyed ccache."""
    alice.initialize(b"1000:a", ALICE)
    alice.initialize(b"1000", BOB)
    events.clear()
    alice.destroy(b"1000:a")
    assert [(each.kind, each.ccache, each.principal) for each in events] == [
        (Kind.DESTROYED, b"1000:a", ALICE)
    ]


def test_move_is_reported_as_creation_and_destruction(root: Asking, events: EventLog) -> None:
    """A move destroys one name and creates or replaces the other, also another user's."""
    root.initialize(b"1000", ALICE)
    root.initialize(b"1000:a", ALICE)
    root.initialize(b"1000:b", BOB)
    events.clear()
    root.move_cache(b"1000:a", b"1000:b")
    assert events.take() == [(Kind.REPLACED, b"1000:b", ""), (Kind.DESTROYED, b"1000:a", "")]
    root.move_cache(b"1000:b", b"2000")
    assert sorted((each.uid, each.kind) for each in events) == [(1000, Kind.DESTROYED), (2000, Kind.CREATED)]


def test_moved_default_is_reported_once(alice: Asking, events: EventLog) -> None:
    """A default that moves is reported with its new name, one that stays is not."""
    alice.initialize(b"1000:a", ALICE)
    alice.initialize(b"1000:b", BOB)
    events.clear()
    alice.set_default_cache(b"1000:b")
    alice.set_default_cache(b"1000:b")
    assert events.take() == [(Kind.DEFAULT, b"1000:b", "")]
    alice.destroy(b"1000:a")
    alice.destroy(b"1000:b")
    # An empty collection keeps its default.
    assert events.take() == [(Kind.DESTROYED, b"1000:a", ""), (Kind.DESTROYED, b"1000:b", "")]


def test_default_event_follows_the_name_that_clients_get(alice: Asking, events: EventLog) -> None:
    """A chosen name is reported as default only when a ccache has it."""
    alice.initialize(b"1000", ALICE)
    events.clear()
    alice.set_default_cache(b"1000:b")
    assert events.take() == []
    alice.initialize(b"1000:b", BOB)
    assert events.take() == [(Kind.CREATED, b"1000:b", ""), (Kind.DEFAULT, b"1000:b", "")]
    alice.destroy(b"1000:b")
    assert events.take() == [(Kind.DESTROYED, b"1000:b", ""), (Kind.DEFAULT, b"1000", "")]


def test_root_default_may_be_ccache_of_another_user(root: Asking, alice: Asking, events: EventLog) -> None:
    """Root's choice of a user's ccache is reported, even if root has ccaches."""
    alice.initialize(b"1000", ALICE)
    root.initialize(b"0:own", ALICE)
    events.clear()
    root.set_default_cache(b"1000")
    assert events.take() == [(Kind.DEFAULT, b"1000", "")]
    root.initialize(b"0:another", ALICE)
    assert events.take() == [(Kind.CREATED, b"0:another", "")]


def test_eviction_is_reported_with_its_option(runner: asyncio.Runner) -> None:
    """An eviction is reported with the option that required it: a ccache, or some of its tickets."""
    server = Server(runner, MemoryStore(), quotas=Quotas(max_uid_ccaches=1, max_ccache_size=6000))
    alice, events = server.ask_as(1000), EventLog(server)
    alice.initialize(b"1000:old", ALICE)
    alice.store(b"1000:old", ticket(TGS, ends=1400).blob)
    events.clear()
    alice.initialize(b"1000:new", ALICE)
    assert events.take() == [
        (Kind.CREATED, b"1000:new", ""),
        (Kind.EVICTED, b"1000:old", "max_uid_ccaches"),
        (Kind.DEFAULT, b"1000:new", ""),
    ]
    for number in range(3):
        alice.store(b"1000:new", credential_of_size(500, service(number)).blob)
    events[:] = [each for each in events if each.kind is not Kind.STORED]
    assert [each.tickets for each in events] == [1]
    assert events.take() == [(Kind.EVICTED, b"1000:new", "max_ccache_size")]


def test_reaped_ccache_is_reported_as_expired(server: Server, alice: Asking, events: EventLog) -> None:
    """A ccache that the reaper removes has expired."""
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", ticket(TGS, ends=1400).blob)
    (uuid,) = alice.get_cache_uuid_list()
    events.clear()
    server.runner.run(server.change(1000, lambda each: each.remove_expired([uuid], 1500)))
    assert events.take() == [(Kind.EXPIRED, b"1000", "expired_retention")]


@EMBEDDED_STORES
def test_destroyed_damaged_ccache_is_reported(server: Server, alice: Asking, store: Store) -> None:
    """The destruction of a ccache that cannot be read is an event."""
    alice.initialize(b"1000", ALICE)
    secrets: list[Secret] = server.runner.run(secrets_of(store, 1000))
    uuid, name = split_ccache_name(secrets[0].name)
    server.runner.run(commit_changes(store, [Put(ccache_container(1000, uuid, name), "00" * 16, b"damaged")]))
    again = server.restarted()
    events = EventLog(again)
    again.ask_as(1000).destroy(b"1000")
    assert events.take() == [(Kind.DESTROYED, b"1000", "")]


def test_refused_change_is_not_reported(server: Server, alice: Asking, events: EventLog) -> None:
    """A change that the store refuses is no event."""
    server.store.refusal = lambda _: StoreError("no space left", errno.ENOSPC)
    with refused(errno.ENOSPC):
        alice.initialize(b"1000", ALICE)
    assert events == []


def test_refusals_are_reported_with_their_reason(runner: asyncio.Runner) -> None:
    """A refusal for a quota or a permission is reported for the client's UID, with its real reason."""
    server = Server(runner, MemoryStore(), quotas=Quotas(max_uid_ccaches=1))
    alice, bob, events = server.ask_as(1000), server.ask_as(2000), EventLog(server)
    alice.initialize(b"1000", ALICE)
    events.clear()
    with refused(errno.EDQUOT):
        alice.initialize(b"1000:more", ALICE)
    with refused(Code.FCC_PERM):
        bob.initialize(b"1000", BOB)
    with refused(Code.FCC_NOFILE):
        bob.get_principal(b"1000")
    with refused(Code.CC_END):
        bob.get_cred_by_uuid(b"1000", bytes(16))
    assert {each.uid for each in events[1:]} == {2000}
    assert all(each.detail for each in events)
    assert events.take() == [
        (Kind.REFUSED, b"1000:more", "quota"),
        (Kind.REFUSED, b"1000", "permission"),
        (Kind.REFUSED, b"1000", "permission"),
        (Kind.REFUSED, b"1000", "permission"),
    ]


async def test_refused_connections(listen: Listen) -> None:
    """A refused connection is an event."""
    listening = await listen(limits=Limits(uid_connections=1))
    events: list[Event] = []
    listening.engine.watchers.append(Watch(events.append, unconstrained_default))
    client = await listening.connected()
    await client.send(NOOP[:5])
    await until(lambda: listening.made[0].state is State.RECEIVING)
    assert await listening.client().is_closed()
    assert [(each.kind, each.uid, each.reason) for each in events] == [(Kind.REFUSED, UID, "connection")]


def test_events_have_the_label_of_their_ccache(runner: asyncio.Runner) -> None:
    """An event has the label of its ccache, and a refusal that of the client."""
    server = Server(runner, MemoryStore(), policy=Mcs())
    host, one, events = server.ask_as(1000, HOST), server.ask_as(1000, CONTAINER_1), EventLog(server)
    host.initialize(b"1000", ALICE)
    name = one.get_default_cache()
    one.initialize(name, BOB)
    with refused(Code.FCC_PERM):
        one.initialize(b"1000", BOB)
    host.destroy(name)
    created, default, *others = events
    assert (created.kind, created.label) == (Kind.CREATED, HOST)
    # A peer that could read the container's ccaches may know its default.
    assert (default.kind, default.ccache) == (Kind.DEFAULT, name)
    assert default.label is not None
    assert default.label.endswith(":s0:c1,c2")
    assert [(each.kind, each.label) for each in others if each.kind is not Kind.DEFAULT] == [
        (Kind.CREATED, CONTAINER_1),
        (Kind.REFUSED, CONTAINER_1),
        (Kind.DESTROYED, CONTAINER_1),
    ]


@pytest.mark.parametrize(
    "part",
    [
        "pykcm.engine.collection_cache.CollectionCache.weigh",
        "pykcm.engine.collection_cache.CollectionCache.make_room",
        "pykcm.engine.commits.log_removals",
        "pykcm.engine.removals.RemovalCounts.add",
    ],
)
def test_error_in_bookkeeping_does_not_fail_a_durable_change(
    server: Server, alice: Asking, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A durable change is answered as such, even if it cannot be counted or logged."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("cannot be counted")

    alice.initialize(b"1000", ALICE)
    with monkeypatch.context() as patched:
        patched.setattr(part, fail)
        removals = [Removal(b"1000:gone", "max_uid_size", 1)]
        patched.setattr("pykcm.engine.commits.removals_in", lambda _: removals)
        alice.initialize(b"1000:other", BOB)
    assert alice.get_principal(b"1000:other") == BOB
    assert server.restarted().ask_as(1000).get_principal(b"1000:other") == BOB
