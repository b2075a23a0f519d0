"""Notifications: a host knows the newest versions without asking, and knows when it does not."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import psycopg
import pytest

from pykcm.store.interface import Committed
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.listener import BOUND, NotifiedFreshness
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.builders import Clock
from tests.server.waiting import until
from tests.store.postgresql.conftest import KEY, OpenStore
from tests.store.postgresql.server import Relay
from tests.store.postgresql.test_store import commit, entry, put_ccache


@pytest.fixture
async def relay(conninfo: str) -> AsyncIterator[Relay]:
    """Between the listening host and the database."""
    async with Relay.to(conninfo) as relay:
        yield relay


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The listener's clock. It stands still: only notifications and lost connections end what is known."""
    clock = Clock(monotonic())
    monkeypatch.setattr("pykcm.store.postgresql.listener.monotonic", clock)
    return clock


@pytest.fixture
async def listening(relay: Relay, clock: Clock) -> AsyncIterator[PostgreSQLStore]:
    """The store of a host that listens, through the relay."""
    store = PostgreSQLStore(Database(relay.conninfo, 5.0, 60.0), Sealer([KEY]), listens=True)
    await store.load(1000)
    await until(lambda: freshness_of(store).listens)
    yield store
    store.close()


def freshness_of(store: PostgreSQLStore) -> NotifiedFreshness:
    assert isinstance(store.freshness, NotifiedFreshness)
    return store.freshness


async def test_version_is_known_after_a_question_until_another_host_commits(
    shared: PostgreSQLStore, listening: PostgreSQLStore
) -> None:
    """Another host's commit is known by its notification; after a question the new version is known, too."""
    freshness = freshness_of(listening)
    assert not freshness.is_known_newest(1000, 0)
    assert await freshness.newest_version(1000) == 0
    for version in range(3):
        assert freshness.is_known_newest(1000, version)
        await commit(shared, 1000, put_ccache(1000, 1))
        await until(lambda version=version: not freshness.is_known_newest(1000, version))  # type: ignore[misc]
        assert await freshness.newest_version(1000) == version + 1


async def test_own_commits_and_reads_are_known(listening: PostgreSQLStore) -> None:
    """A version that this host has committed or read is known without a question."""
    freshness = freshness_of(listening)
    assert await listening.commit([entry({1000: 0}, put_ccache(1000, 1))]) == [Committed({1000: 1})]
    assert freshness.is_known_newest(1000, 1)
    await listening.load(2000)
    assert freshness.is_known_newest(2000, 0)


async def test_nothing_is_known_after_the_connection_has_ended(
    monkeypatch: pytest.MonkeyPatch, conninfo: str, shared: PostgreSQLStore, listening: PostgreSQLStore
) -> None:
    """A change that was made while the host did not listen is found by a question."""
    freshness = freshness_of(listening)
    await freshness.newest_version(1000)
    listen, may_listen = freshness._listen, asyncio.Event()

    async def listen_later() -> None:
        await may_listen.wait()
        await listen()

    monkeypatch.setattr(freshness, "_listen", listen_later)
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'pykcm' AND query = 'SELECT version FROM pykcm.schema'"
        )
    await until(lambda: not freshness.listens)
    await commit(shared, 1000, put_ccache(1000, 1))
    assert not freshness.is_known_newest(1000, 0)
    assert await freshness.newest_version(1000) == 1
    may_listen.set()
    await until(lambda: freshness.listens)
    assert not freshness.is_known_newest(1000, 1)


async def test_silence_is_believed_for_a_bounded_time(
    clock: Clock, relay: Relay, listening: PostgreSQLStore
) -> None:
    """A connection that delivers nothing, and does not end, is believed until BOUND after its last answer."""
    freshness = freshness_of(listening)
    await freshness.newest_version(1000)
    relay.hold()
    assert freshness.is_known_newest(1000, 0)
    clock.now += BOUND
    assert not freshness.is_known_newest(1000, 0)


async def test_hosts_notify_only_when_one_listens(conninfo: str, shared: PostgreSQLStore) -> None:
    """A database without a host that listens has no notifications, which take a lock of the whole server."""
    await commit(shared, 1000, put_ccache(1000, 1))
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("LISTEN pykcm")
        await commit(shared, 1000, put_ccache(1000, 2))
        assert list(other.notifies(timeout=0)) == []
        other.execute("UPDATE pykcm.schema SET listened_until = now() + interval '1 hour'")
        for version in (3, 4):
            # The first one after the request to notify, too.
            await commit(shared, 1000, put_ccache(1000, version))
            [notification] = other.notifies(timeout=60, stop_after=1)
            assert notification.payload == f"1000 {version}"


async def test_versions_of_a_bounded_number_of_uids_are_noted(
    monkeypatch: pytest.MonkeyPatch, shared: PostgreSQLStore, listening: PostgreSQLStore
) -> None:
    """A host knows the newest versions of the last UIDs that it asked about; it asks for the others again."""
    monkeypatch.setattr("pykcm.store.postgresql.listener._MOST", 3)
    freshness = freshness_of(listening)
    uids = range(1000, 1010)
    for uid in uids:
        assert await freshness.newest_version(uid) == 0
    assert [uid for uid in uids if freshness.is_known_newest(uid, 0)] == [1007, 1008, 1009]
    # Notifications of UIDs that this host has not asked about take no place.
    for uid in (*range(2000, 2010), 1008):
        await commit(shared, uid, put_ccache(uid, 1))
    await until(lambda: freshness.is_known_newest(1008, 1))
    assert [uid for uid in uids if freshness.is_known_newest(uid, 0)] == [1007, 1009]
    assert len(freshness._versions) == len(freshness._notified) == 3
    assert await freshness.newest_version(1000) == 0
    assert await freshness.newest_version(2000) == 1


async def test_version_that_was_notified_during_a_question_is_newer_than_its_answer(
    monkeypatch: pytest.MonkeyPatch, listening: PostgreSQLStore
) -> None:
    """The answer to a question does not hide a notification that came before it, also a forgotten one."""
    monkeypatch.setattr("pykcm.store.postgresql.listener._MOST", 3)
    freshness = freshness_of(listening)
    begun = freshness.begin()
    freshness.notified(1000, 5)
    freshness.confirm(begun, {1000: 4, 1001: 7})
    assert freshness.is_known_newest(1000, 5)
    assert freshness.is_known_newest(1001, 7)
    begun = freshness.begin()
    for uid in (2000, 3000, 4000, 5000):
        freshness.notified(uid, 5)
    # The first of these notifications is forgotten: it may be the one of any UID.
    freshness.confirm(begun, {2000: 4, 6000: 4})
    assert not freshness.is_known_newest(2000, 4)
    assert not freshness.is_known_newest(6000, 4)
    freshness.confirm(freshness.begin(), {2000: 5})
    assert freshness.is_known_newest(2000, 5)


async def test_first_commit_of_a_host_notifies_in_its_transaction(
    monkeypatch: pytest.MonkeyPatch, conninfo: str, open_store: OpenStore
) -> None:
    """A host that ends right after its first commit leaves no host without the notification."""
    host = open_store()
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("UPDATE pykcm.schema SET listened_until = now() + interval '1 hour'")
        other.execute("LISTEN pykcm")

        async def ended(*_: object) -> None:
            pytest.fail("a notification of its own")

        monkeypatch.setattr(host, "_query", ended)
        assert await host.commit([entry({1000: 0}, put_ccache(1000, 1))]) == [Committed({1000: 1})]
        [notification] = other.notifies(timeout=60, stop_after=1)
        assert notification.payload == "1000 1"
