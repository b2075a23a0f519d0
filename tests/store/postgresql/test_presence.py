"""A database that goes away and comes back: who waits, for how long, and what is said."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from pykcm.store.interface import Blocked, Committed, Conflict, Refused, StoreError, Unknown
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.failures import LostAnswerError
from pykcm.store.postgresql.pipelined_connection import Connection
from pykcm.store.postgresql.schema import create
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.server.waiting import LIMIT, until
from tests.store.postgresql.conftest import KEY, OpenStore
from tests.store.postgresql.server import PostgreSQL, running_server
from tests.store.postgresql.test_store import commit, entry, put_ccache

# In seconds: long enough for a commit on a machine that is busy.
_TIMEOUT = 2.0


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgreSQL]:
    """A server that tests stop and start."""
    with running_server() as server:
        with psycopg.connect(server.conninfo) as connection:
            create(connection, KEY.id, None)
        yield server


@pytest.fixture
async def store(mortal: PostgreSQL) -> AsyncIterator[PostgreSQLStore]:
    """A store that waits for `_TIMEOUT`."""
    with psycopg.connect(mortal.conninfo) as connection:
        connection.execute("TRUNCATE pykcm.collections, pykcm.secrets, pykcm.commits")
    store = PostgreSQLStore(Database(mortal.conninfo, _TIMEOUT), Sealer([KEY]))
    yield store
    store.close()


@pytest.fixture
async def open_mortal(mortal: PostgreSQL, store: PostgreSQLStore) -> AsyncIterator[OpenStore]:
    """Opens the store of one more host."""
    opened: list[PostgreSQLStore] = []

    def open_it(*, stale_reads: float) -> PostgreSQLStore:
        opened.append(PostgreSQLStore(Database(mortal.conninfo, _TIMEOUT, stale_reads), Sealer([KEY])))
        return opened[-1]

    yield open_it
    for each in opened:
        each.close()


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


async def test_no_commit_is_sent_on_a_connection_that_has_ended(
    mortal: PostgreSQL, store: PostgreSQLStore
) -> None:
    """After a restart a commit takes a new connection; without a server it is refused, and not in doubt."""
    await commit(store, 1000, put_ccache(1000, 1))
    mortal.stop("immediate")
    mortal.start()
    assert await store.commit([entry({1000: 1}, put_ccache(1000, 2))]) == [Committed({1000: 2})]
    mortal.stop("immediate")
    try:
        [outcome] = await store.commit([entry({1000: 2}, put_ccache(1000, 3))])
    finally:
        mortal.start()
    assert type(outcome) is Refused
    assert outcome.error.code == errno.ETIMEDOUT


async def test_commit_on_a_broken_connection_is_found_out(
    mortal: PostgreSQL, store: PostgreSQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose connection ended is unknown; its outcome tells that it was not made, and it is not."""
    await commit(store, 1000, put_ccache(1000, 1))
    # It ends after the look at it.
    monkeypatch.setattr(Database, "_take_idle", lambda database: database._idle.pop())
    mortal.stop("immediate")
    mortal.start()
    lost = entry({1000: 1}, put_ccache(1000, 2))
    [outcome] = await store.commit([lost])
    monkeypatch.undo()
    assert type(outcome) is Unknown
    assert await store.outcome(lost) is None
    assert await store.commit([entry({1000: 1}, put_ccache(1000, 3))]) == [Committed({1000: 2})]


async def test_answers_that_are_lost_again_and_again_are_waited_for(
    mortal: PostgreSQL, store: PostgreSQLStore
) -> None:
    """A read is made again until its time limit; one that does not wait fails with ETIMEDOUT."""
    database, attempts = store.database, 0

    async def end_the_connection(connection: Connection) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 4:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    end = asyncio.get_running_loop().time() + LIMIT
    await database.repeatable(end_the_connection, end=end)
    assert attempts == 5
    attempts = 0
    with pytest.raises(StoreError) as raised:
        await database.repeatable(end_the_connection, waits=False)
    assert attempts == 2
    assert raised.value.code == errno.ETIMEDOUT


async def test_call_that_is_not_answered_ends_in_time(mortal: PostgreSQL, store: PostgreSQLStore) -> None:
    """A commit whose server is silent is given up after the time limit; its outcome is found out later."""
    await commit(store, 1000, put_ccache(1000, 1))
    late = entry({1000: 1}, put_ccache(1000, 2))
    with psycopg.connect(mortal.conninfo, autocommit=True) as other:
        backends = other.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pykcm' AND pid <> pg_backend_pid()"
        ).fetchall()
        for (pid,) in backends:
            os.kill(pid, signal.SIGSTOP)
        try:
            [outcome] = await store.commit([late])
        finally:
            for (pid,) in backends:
                os.kill(pid, signal.SIGCONT)
    assert type(outcome) is Unknown
    assert outcome.error.code == errno.ETIMEDOUT
    found = await store.outcome(late)
    assert not store.database.presence.is_away
    assert (await store.load(1000)).version == (1 if found is None else 2)


async def test_end_of_a_silent_call_leaves_its_descriptor_to_others(mortal: PostgreSQL) -> None:
    """The socket of a call without an answer is closed, and the next client may have its descriptor."""
    loop = asyncio.get_running_loop()
    database = Database(mortal.conninfo, LIMIT)
    ours, theirs = socket.socketpair()
    answered = asyncio.Event()

    async def ask(connection: Connection) -> None:
        fd = connection.fileno()
        os.kill(connection.info.backend_pid, signal.SIGSTOP)
        stopped.append(connection.info.backend_pid)

        def take_number() -> None:
            try:
                os.fstat(fd)
            except OSError:
                os.dup2(ours.fileno(), fd)
                taken.append(fd)
                loop.add_reader(fd, answered.set)
            else:
                loop.call_soon(take_number)

        loop.call_soon(take_number)
        await connection.execute("SELECT 1")

    stopped: list[int] = []
    taken: list[int] = []
    try:
        # The connection has more time than the call.
        await database.transact([("SELECT 1", {})])
        with pytest.raises(LostAnswerError):
            await database.call(ask, end=loop.time() + 0.3)
        await until(lambda: taken)
        theirs.send(b"x")
        async with asyncio.timeout(LIMIT):
            await answered.wait()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        for fd in taken:
            loop.remove_reader(fd)
            os.close(fd)
        ours.close()
        theirs.close()
        database.close()


async def test_locked_rows_hold_no_other_uid_up(mortal: PostgreSQL, store: PostgreSQLStore) -> None:
    """A UID whose rows another transaction holds is refused after the time limit, and no other one waits."""
    await commit(store, 1000, put_ccache(1000, 1))
    await commit(store, 2000, put_ccache(2000, 1))
    blocked = entry({1000: 1}, put_ccache(1000, 2))
    async with await psycopg.AsyncConnection.connect(mortal.conninfo) as other:
        await other.execute("SELECT * FROM pykcm.collections WHERE uid = 1000 FOR UPDATE")
        outcomes = await store.commit([blocked, entry({2000: 1}, put_ccache(2000, 2))])
        assert type(outcomes[0]) is Blocked
        assert outcomes[1] == Committed({2000: 2})
        async with asyncio.timeout(LIMIT):
            while type(outcomes[0]) is Blocked:
                await asyncio.sleep(outcomes[0].pause)
                outcomes = await store.commit([blocked])
        assert type(outcomes[0]) is Refused
        assert outcomes[0].error.code == errno.ETIMEDOUT
    assert not store.database.presence.is_away
    assert await store.commit([blocked]) == [Committed({1000: 2})]


async def test_blocked_entry_of_an_old_version_is_a_conflict(
    mortal: PostgreSQL, store: PostgreSQLStore
) -> None:
    """An entry that is based on an old version is no better when the lock is gone."""
    await commit(store, 1000, put_ccache(1000, 1))
    async with await psycopg.AsyncConnection.connect(mortal.conninfo) as other:
        await other.execute("SELECT * FROM pykcm.collections WHERE uid = 1000 FOR UPDATE")
        assert await store.commit([entry({1000: 7}, put_ccache(1000, 2))]) == [Conflict((1000,))]


async def test_memory_counts_for_stale_reads(mortal: PostgreSQL, open_mortal: OpenStore) -> None:
    """While the database is away, memory counts at once until `stale_reads` have passed since it was seen."""
    patient, strict = open_mortal(stale_reads=60.0), open_mortal(stale_reads=0.0)
    for store in (patient, strict):
        await commit(store, 1000, put_ccache(1000, 1))
    assert await patient.freshness.newest_version(1000) == 2
    mortal.stop()
    try:
        assert await patient.freshness.newest_version(1000) == 0
        with pytest.raises(StoreError) as raised:
            await strict.freshness.newest_version(1000)
        assert raised.value.code == errno.ETIMEDOUT
    finally:
        mortal.start()
    for store in (patient, strict):
        await until(lambda store=store: not store.database.presence.is_away)  # type: ignore[misc]
        assert await store.freshness.newest_version(1000) == 2


async def test_host_that_does_not_answer_leaves_time_for_the_next_one(mortal: PostgreSQL) -> None:
    """Of several hosts in the connection string, a silent one takes a part of the time limit alone."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        conninfo = psycopg.conninfo.make_conninfo(
            mortal.conninfo, host=f"127.0.0.1,{mortal.folder}", port=f"{silent.getsockname()[1]},5432"
        )
        store = PostgreSQLStore(Database(conninfo, 5.0), Sealer([KEY]))
        assert (await store.load(3000)).version == 0
        store.close()
