"""A database that goes away and comes back: who waits, for how long, and what is said."""

import asyncio
import errno
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from pykcm.store.interface import Committed, Refused, StoreError, Unknown
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.schema import create
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.server.waiting import until
from tests.store.postgresql.conftest import KEY
from tests.store.postgresql.server import PostgreSQL, bin_folder
from tests.store.postgresql.test_store import commit, entry, put_ccache

_TIMEOUT = 0.5


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgreSQL]:
    """A server that tests stop and start."""
    if bin_folder() is None:
        pytest.skip("there is no PostgreSQL (Debian: postgresql)")
    with tempfile.TemporaryDirectory(prefix="pykcm-postgresql-") as folder:
        Path(folder).chmod(0o711)
        server = PostgreSQL(Path(folder, "server"))
        server.start()
        with psycopg.connect(server.conninfo) as connection:
            create(connection, KEY.id, None)
        yield server
        server.stop("immediate")


@pytest.fixture
async def store(mortal: PostgreSQL) -> AsyncIterator[PostgreSQLStore]:
    """A store that waits for half a second."""
    with psycopg.connect(mortal.conninfo) as connection:
        connection.execute("TRUNCATE pykcm.collections, pykcm.secrets, pykcm.commits")
    store = PostgreSQLStore(Database(mortal.conninfo, _TIMEOUT), Sealer([KEY]))
    yield store
    store.close()


async def test_calls_fail_while_the_database_is_away_and_work_when_it_is_back(
    mortal: PostgreSQL, store: PostgreSQLStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads and commits are refused with ETIMEDOUT; the database is found again without a request."""
    await commit(store, 1000, put_ccache(1000, 1))
    mortal.stop()
    with caplog.at_level(logging.WARNING):
        with pytest.raises(StoreError) as raised:
            await store.load(1000)
        assert raised.value.code == errno.ETIMEDOUT
        [outcome] = await store.commit([entry({1000: 1}, put_ccache(1000, 2))])
        assert type(outcome) is Refused
        assert outcome.error.code == errno.ETIMEDOUT
        mortal.start()
        await until(lambda: not store.database.presence.is_away)
    assert [message.partition(": ")[2].partition(":")[0] for message in caplog.messages] == [
        "the database is away",
        caplog.messages[1].partition(": ")[2],
    ]
    assert "the database is back after" in caplog.messages[1]
    await commit(store, 1000, put_ccache(1000, 2))


async def test_long_absence_is_not_waited_for_again(mortal: PostgreSQL, store: PostgreSQLStore) -> None:
    """Once the database has been away for the time limit, calls are refused at once."""
    await commit(store, 1000, put_ccache(1000, 1))
    mortal.stop()
    with pytest.raises(StoreError):
        await store.load(1000)
    loop = asyncio.get_running_loop()
    with pytest.raises(StoreError):
        await store.load(1000)
    begun = loop.time()
    with pytest.raises(StoreError):
        await store.load(1000)
    assert loop.time() - begun < _TIMEOUT
    mortal.start()


async def test_server_that_was_started_again_is_not_noticed_by_reads(
    mortal: PostgreSQL, store: PostgreSQLStore
) -> None:
    """Connections of the old server are broken: a read is made again, with a new one."""
    await commit(store, 1000, put_ccache(1000, 1))
    mortal.stop("immediate")
    mortal.start()
    assert (await store.load(1000)).version == 1


async def test_commit_on_a_broken_connection_is_found_out(mortal: PostgreSQL, store: PostgreSQLStore) -> None:
    """A commit whose connection ended is unknown; its outcome tells that it was not made, and it is not."""
    await commit(store, 1000, put_ccache(1000, 1))
    mortal.stop("immediate")
    mortal.start()
    lost = entry({1000: 1}, put_ccache(1000, 2))
    [outcome] = await store.commit([lost])
    assert type(outcome) is Unknown
    assert await store.outcome(lost) is None
    assert await store.commit([entry({1000: 1}, put_ccache(1000, 3))]) == [Committed({1000: 2})]


async def test_call_that_is_not_answered_ends_in_time(mortal: PostgreSQL, store: PostgreSQLStore) -> None:
    """A commit that waits for a lock is given up after the time limit, and can never be made afterwards."""
    await commit(store, 1000, put_ccache(1000, 1))
    late = entry({1000: 1}, put_ccache(1000, 2))
    async with await psycopg.AsyncConnection.connect(mortal.conninfo) as other:
        await other.execute("SELECT * FROM pykcm.collections FOR UPDATE")
        [outcome] = await store.commit([late])
        assert type(outcome) is Unknown
        assert outcome.error.code == errno.ETIMEDOUT
    await until(lambda: not store.database.presence.is_away)
    settled = await store.outcome(late)
    assert (await store.load(1000)).version == (1 if settled is None else 2)
