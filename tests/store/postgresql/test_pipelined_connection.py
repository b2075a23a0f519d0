"""Statements through libpq's non-blocking calls: answers, errors, silence, and ends of connections."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pykcm.sockets.event_loop import EventLoop
from pykcm.store.postgresql.pipelined_connection import Answer, PipelinedConnection
from tests.server.waiting import LIMIT, settle, until
from tests.store.postgresql.server import Relay

_VALUE = "SELECT %(value)s::bigint"
_INSERT = "INSERT INTO pykcm.leases VALUES ('test' || %(value)s::bigint, '-infinity')"
_COUNT = "SELECT count(*) FROM pykcm.leases WHERE starts_with(name, 'test')"
_FAIL = "SELECT 1 / %(value)s::bigint"


class _Host:
    """A connection, and what it has reported."""

    def __init__(self) -> None:
        self.connection: PipelinedConnection
        self.backend = 0
        self.ended = 0
        self.notified: list[bytes] = []

    @classmethod
    async def connected(cls, conninfo: str) -> "_Host":
        host = cls()
        opened = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        host.backend = opened.info.backend_pid
        host.connection = PipelinedConnection(opened, host._end, host.notified.append)
        return host

    def _end(self, connection: PipelinedConnection) -> None:
        assert connection is self.connection
        self.ended += 1

    async def execute(self, *statements: tuple[str, dict[str, Any]], within: float = LIMIT) -> Any:
        return await self.connection.execute(statements, asyncio.get_running_loop().time() + within)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"loop_factory": EventLoop}), id="pykcm"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The daemon's event loop keeps callbacks by descriptor itself."""
    return request.param


@pytest.fixture
async def host(conninfo: str) -> AsyncIterator[_Host]:
    host = await _Host.connected(conninfo)
    yield host
    host.connection.finish()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Within it, the server's process for one connection answers nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def terminate(conninfo: str, backend: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 20000)", (backend,))


async def test_rows_of_the_first_statement_come_back(host: _Host) -> None:
    """Also when the statements are sent again, and are prepared already."""
    for number in range(3):
        rows = await host.execute((_VALUE, {"value": number}), (_INSERT, {"value": number}))
        assert rows == [(number,)]
    assert await host.execute((_COUNT, {})) == [(3,)]


async def test_transaction_is_one_round_trip(conninfo: str) -> None:
    """Statements are prepared and executed with one message, the first time, too."""
    async with Relay.to(conninfo) as relay:
        host = await _Host.connected(relay.conninfo)
        relay.turns = 0
        for number in range(2):
            await host.execute((_VALUE, {"value": number}), (_INSERT, {"value": number}))
            assert relay.turns == number + 1
        host.connection.finish()


async def test_error_undoes_all_and_the_next_transaction_works(host: _Host) -> None:
    """Statements after the failed one are not executed, nor prepared; the error is the first one's."""
    with pytest.raises(errors.DivisionByZero):
        await host.execute(
            (_INSERT, {"value": 1}), (_FAIL, {"value": 0}), (_VALUE, {"value": 1}), (_FAIL, {"value": 0})
        )
    assert await host.execute((_COUNT, {})) == [(0,)]
    assert await host.execute((_VALUE, {"value": 1}), (_FAIL, {"value": 1})) == [(1,)]
    assert not host.connection.closed


async def test_statement_that_cannot_be_prepared_is_an_error_each_time(host: _Host) -> None:
    """It is prepared again with the next attempt: what was missing may be there by then."""
    for _ in range(2):
        with pytest.raises(errors.UndefinedTable):
            await host.execute(("SELECT FROM pykcm.missing", {}))
    await host.connection.psycopg().execute("CREATE TABLE pykcm.missing ()")
    assert await host.execute(("SELECT FROM pykcm.missing", {})) == []


async def test_psycopg_and_sent_statements_take_turns(host: _Host) -> None:
    """The connection serves psycopg's own calls between transactions."""
    for number in range(3):
        assert await host.execute((_VALUE, {"value": number})) == [(number,)]
        cursor = await host.connection.psycopg().execute("SELECT 7")
        assert await cursor.fetchone() == (7,)


async def test_large_values_are_sent_while_the_server_does_not_read(host: _Host) -> None:
    """More bytes than the socket takes at once are sent as the server reads them; others run meanwhile."""
    large = os.urandom(4 * 1024 * 1024)
    with stopped(host.backend):
        task = asyncio.ensure_future(
            host.execute(("SELECT octet_length(%(value)s::bytea)", {"value": large}))
        )
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
    assert await task == [(len(large),)]
    assert await host.execute((_VALUE, {"value": 1})) == [(1,)]


async def test_silent_server_is_given_up_in_time(host: _Host) -> None:
    """At the end of its time a transaction fails with TimeoutError, and its connection is closed."""
    await host.execute((_VALUE, {"value": 1}))
    with stopped(host.backend), pytest.raises(TimeoutError):
        await host.execute((_VALUE, {"value": 2}), within=0.05)
    assert host.connection.closed
    assert host.ended == 0


async def test_time_limit_is_that_of_each_transaction(host: _Host) -> None:
    """A limit that comes before that of an earlier transaction counts."""
    await host.execute((_VALUE, {"value": 1}), within=3600)
    with stopped(host.backend), pytest.raises(TimeoutError):
        await host.execute((_VALUE, {"value": 2}), within=0.05)


async def test_later_limit_outlasts_an_earlier_one(host: _Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a transaction that was answered does not end a later one."""
    loop = asyncio.get_running_loop()
    really = loop.time
    await host.execute((_VALUE, {"value": 1}), within=LIMIT)
    with stopped(host.backend):
        task = asyncio.ensure_future(host.execute((_VALUE, {"value": 2}), within=4 * LIMIT))
        await asyncio.sleep(0)
        monkeypatch.setattr(loop, "time", lambda: really() + 2 * LIMIT)
        await settle()
        assert not task.done()
    assert await task == [(2,)]


async def test_connection_that_ends_in_a_transaction_is_an_error(conninfo: str, host: _Host) -> None:
    """The error is the server's own, if it has sent one."""
    await host.execute((_VALUE, {"value": 1}))
    task = asyncio.ensure_future(host.execute(("SELECT pg_sleep(%(value)s::bigint)::text", {"value": 60})))
    await asyncio.sleep(0)
    await asyncio.to_thread(terminate, conninfo, host.backend)
    with pytest.raises(errors.AdminShutdown):
        await task
    assert host.connection.closed
    assert host.ended == 0


async def test_connection_that_ends_without_a_word_is_an_error(conninfo: str) -> None:
    """A connection that is cut in a transaction fails with an OperationalError that has no SQLSTATE."""
    async with Relay.to(conninfo) as relay:
        host = await _Host.connected(relay.conninfo)
        await host.execute((_VALUE, {"value": 1}))
        relay.hold()
        task = asyncio.ensure_future(host.execute((_VALUE, {"value": 2})))
        await asyncio.sleep(0)
        relay.cut()
        with pytest.raises(psycopg.OperationalError) as raised:
            await task
        assert raised.value.sqlstate is None
        assert host.connection.closed


async def test_end_of_an_idle_connection_is_reported_once(conninfo: str, host: _Host) -> None:
    """It is noticed at once, and not with the next request."""
    await host.execute((_VALUE, {"value": 1}))
    await asyncio.to_thread(terminate, conninfo, host.backend)
    await until(lambda: host.ended > 0)
    assert host.connection.closed
    with pytest.raises(psycopg.OperationalError):
        await host.execute((_VALUE, {"value": 1}))
    assert host.ended == 1


async def test_cancelled_caller_closes_the_connection(host: _Host) -> None:
    """Its answer would be taken for that of the next transaction."""
    with stopped(host.backend):
        task = asyncio.ensure_future(host.execute((_VALUE, {"value": 1})))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert host.connection.closed


async def test_closed_connection_is_not_watched(host: _Host, conninfo: str) -> None:
    """Its descriptor is soon that of another socket, which must not be taken for it."""
    await host.execute((_VALUE, {"value": 1}))
    descriptor = host.connection.psycopg().fileno()
    await host.execute((_VALUE, {"value": 1}))
    answers: list[Answer] = []
    with stopped(host.backend):
        loop = asyncio.get_running_loop()
        host.connection.send([(_VALUE, {"value": 1})], loop.time() + LIMIT, answers.append)
        host.connection.finish()
    other = await _Host.connected(conninfo)
    assert other.connection.psycopg().fileno() == descriptor
    assert await other.execute((_VALUE, {"value": 2})) == [(2,)]
    other.connection.finish()
    assert answers == []


async def test_notifications_come_before_a_later_answer(conninfo: str, host: _Host) -> None:
    """A notification that the server has sent before an answer is reported before it."""
    await host.connection.psycopg().execute("LISTEN test")
    await host.execute((_VALUE, {"value": 1}))
    with psycopg.connect(conninfo, autocommit=True) as other:
        for number in range(3):
            other.execute("SELECT pg_notify('test', %s)", (str(number),))
    seen: list[list[bytes]] = []
    loop = asyncio.get_running_loop()
    await until(lambda: len(host.notified) == 3)
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("SELECT pg_notify('test', 'last')")
        while other.execute("SELECT pg_notification_queue_usage() > 0").fetchone() == (True,):
            pass
    host.connection.send(
        [(_VALUE, {"value": 1})], loop.time() + LIMIT, lambda _: seen.append(list(host.notified))
    )
    await until(lambda: bool(seen))
    assert seen == [[b"0", b"1", b"2", b"last"]]
