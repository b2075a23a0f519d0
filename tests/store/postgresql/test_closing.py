"""Closing the store while it works: no connection is left behind, and nobody waits forever."""

import asyncio
import errno
import gc
import warnings
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from pykcm.store.interface import StoreError
from pykcm.store.postgresql.database import Database, Rows
from pykcm.store.postgresql.failures import LostAnswerError
from pykcm.store.postgresql.listener import NotifiedFreshness
from pykcm.store.postgresql.pipelined_connection import Connection
from pykcm.store.postgresql.prepared import Statement
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.server.waiting import LIMIT, until
from tests.store.postgresql.conftest import KEY

_QUICK: Statement = ("SELECT 1", {})
_SLOW: Statement = ("SELECT pg_sleep(60)", {})


@pytest.fixture
async def database(conninfo: str) -> AsyncIterator[Database]:
    """A database that the test closes."""
    database = Database(conninfo, 60.0)
    yield database
    database.close()


@pytest.fixture(autouse=True)
def _no_connection_is_left(conninfo: str) -> Iterator[None]:
    """After the test no connection is open, nor found open by the garbage collector."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def _wait_until_it_sleeps(conninfo: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as observer:
        while True:
            cursor = await observer.execute(
                "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
            )
            if await cursor.fetchone() is not None:
                return


async def test_question_in_progress_is_answered_with_none(conninfo: str, database: Database) -> None:
    """`ask` calls back at once when the store is closed."""
    await database.transact([_QUICK])
    answers: list[Rows | None] = []
    assert database.ask(_SLOW, answers.append)
    await _wait_until_it_sleeps(conninfo)
    database.close()
    assert answers == [None]
    assert database.statistics()["connections_open"] == 0


async def test_transaction_in_progress_has_lost_its_answer(conninfo: str, database: Database) -> None:
    """The outcome of a transaction is unknown when the store is closed before the answer."""
    transaction = asyncio.create_task(database.transact([_SLOW]))
    await _wait_until_it_sleeps(conninfo)
    database.close()
    with pytest.raises(LostAnswerError):
        await transaction
    assert database.statistics()["connections_open"] == 0


async def test_call_in_progress_fails(conninfo: str, database: Database) -> None:
    """A call of psycopg's own ends when the store is closed, and is not made again."""

    async def sleep(connection: Connection) -> None:
        await connection.execute("SELECT pg_sleep(60)")

    call = asyncio.create_task(database.repeatable(sleep))
    await _wait_until_it_sleeps(conninfo)
    database.close()
    with pytest.raises(StoreError):
        await call
    assert database.statistics()["connections_open"] == 0


async def test_call_that_ends_after_the_store_leaves_no_connection(database: Database) -> None:
    """A function that needed no more of its connection ends well, and the connection is closed."""
    goes_on = asyncio.Event()

    async def function(connection: Connection) -> int:
        await goes_on.wait()
        return 1

    call = asyncio.create_task(database.call(function))
    await until(lambda: database.statistics()["connections_open"] == 1)
    database.close()
    goes_on.set()
    assert await call == 1
    assert database.statistics()["connections_open"] == 0


async def test_connection_that_is_made_meanwhile_is_closed(database: Database) -> None:
    """A call that has begun to connect when the store is closed raises StoreError."""
    call = asyncio.create_task(database.transact([_QUICK]))
    # One step of the event loop: the connection is begun.
    await asyncio.sleep(0)
    database.close()
    with pytest.raises(StoreError) as raised:
        await call
    assert raised.value.code == errno.ECANCELED
    assert database.statistics()["connections_open"] == 0


async def test_closed_store_makes_no_connection(database: Database) -> None:
    """A call to a closed store raises StoreError and is not waited for."""
    await database.transact([_QUICK])
    database.close()
    with pytest.raises(StoreError) as raised:
        await database.transact([_QUICK])
    assert raised.value.code == errno.ECANCELED
    assert not database.ask(_QUICK, lambda _: None)


def test_store_is_closed_after_the_event_loop(conninfo: str) -> None:
    """A transaction that nobody waits for any more keeps its connection no longer than the store."""
    waits = []

    async def begin() -> Database:
        database = Database(conninfo, 60.0)
        await database.transact([_QUICK])
        # A future without a task: the end of the event loop cancels tasks alone.
        transaction = database.transact([_SLOW])
        waits.append((transaction, transaction.send(None)))
        return database

    asyncio.run(begin()).close()
    waits.clear()


async def _swallow_a_cancellation(*_: object, **__: object) -> None:
    """Return as psycopg's calls may when their task is cancelled."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def test_cancellation_that_a_call_swallowed_is_not_lost(database: Database) -> None:
    """A call is cancelled also where psycopg has returned as if it were not."""
    call = asyncio.create_task(database.call(_swallow_a_cancellation))
    await until(lambda: database.statistics()["connections_open"] == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert database.statistics()["connections_open"] == 0


async def test_listener_ends_where_a_call_swallowed_its_cancellation(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host ceases to listen when it is told to, also while psycopg opens the connection."""
    freshness = NotifiedFreshness(database, PostgreSQLStore(database, Sealer([KEY])))
    opens = asyncio.Event()

    async def execute(*_: object, **__: object) -> None:
        opens.set()
        await _swallow_a_cancellation()

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.AsyncConnection, "execute", execute)
        tasks = asyncio.all_tasks()
        freshness.begin()
        await opens.wait()
        [listener] = asyncio.all_tasks() - tasks
        freshness.close()
        await asyncio.wait([listener], timeout=LIMIT)
    assert listener.cancelled()
