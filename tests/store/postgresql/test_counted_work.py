"""Round trips: one for a commit, one for a read, one for the versions of all who wait together."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from pykcm.server.operations import OPERATIONS, no_collection
from pykcm.store.interface import Committed
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.engine.shared_store import SharedStore
from tests.server.asking import Server
from tests.store.postgresql.conftest import KEY
from tests.store.postgresql.server import Relay
from tests.store.postgresql.test_store import commit, entry, put_ccache, put_credential

# Seen with 3.2.4 to 3.2.13.
one_message = pytest.mark.skipif(
    psycopg.version.__version__.startswith("3.2."),
    reason="psycopg 3.2 at times sends a message more than it has to",
)


@pytest.fixture
async def relay(conninfo: str) -> AsyncIterator[Relay]:
    """Counts the round trips."""
    async with Relay.to(conninfo) as relay:
        yield relay


@pytest.fixture
async def counted(relay: Relay) -> AsyncIterator[PostgreSQLStore]:
    """The store behind the relay, with a connection, and a ccache of UID 1000 of version 1."""
    store = PostgreSQLStore(Database(relay.conninfo, 20.0), Sealer([KEY]))
    await commit(store, 1000, put_ccache(1000, 1))
    relay.turns = 0
    yield store
    store.close()


@one_message
async def test_commit_is_one_round_trip(relay: Relay, counted: PostgreSQLStore) -> None:
    """Versions, deletions and rows are sent together, also for several UIDs."""
    rows = [put_credential(1000, 1, item, b"ticket") for item in range(5)]
    assert await counted.commit([entry({1000: 1}, put_ccache(1000, 1), *rows)]) == [Committed({1000: 2})]
    assert relay.turns == 1
    entries = [entry({uid: 0}, put_ccache(uid, 1)) for uid in range(2000, 2010)]
    assert await counted.commit(entries) == [Committed({uid: 1}) for uid in range(2000, 2010)]
    assert relay.turns == 2


@one_message
async def test_read_is_one_round_trip(relay: Relay, counted: PostgreSQLStore) -> None:
    """A collection comes with its version."""
    assert (await counted.load(1000)).version == 1
    assert relay.turns == 1


@one_message
async def test_versions_of_all_who_wait_are_one_round_trip(relay: Relay, counted: PostgreSQLStore) -> None:
    """Requests of a hundred UIDs that come together share a look-up."""
    newest = await asyncio.gather(*map(counted.freshness.newest_version, range(1000, 1100)))
    assert newest == [1] + [0] * 99
    assert relay.turns == 1


async def test_versions_are_found_by_an_index(counted: PostgreSQLStore) -> None:
    """A look-up reads the rows of its UIDs alone, however many there are."""
    async with asyncio.timeout(60):
        plan = await counted.database.call(_plan)
    assert any("collections_pkey" in row for row in plan), plan


async def _plan(connection: object) -> list[str]:
    execute = connection.execute  # type: ignore[attr-defined]
    await execute("SET enable_seqscan = off")
    cursor = await execute("EXPLAIN SELECT uid, version FROM pykcm.collections WHERE uid = ANY('{1,2}')")
    return [row[0] for row in await cursor.fetchall()]


def test_requests_that_look_at_no_collection_ask_nothing() -> None:
    """NOOP, RESOLVE and operations that are not supported need neither a look-up nor a load."""
    store = SharedStore()
    with asyncio.Runner() as runner:
        alice = Server(runner, store).ask_as(1000)
        alice.get_default_cache()
        loads = store.loads
        for opcode, operation in OPERATIONS.items():
            if operation.scope is no_collection:
                alice.answer(opcode, b"1000\0" + bytes(64))
        assert (store.questions, store.loads) == ([], loads)
        alice.get_default_cache()
        assert store.questions == [1000]
