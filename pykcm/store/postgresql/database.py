"""Connections to the database: some that are kept, a limit of time for each call, and what an error means."""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

import psycopg

from pykcm.store.interface import StoreError
from pykcm.store.postgresql.failures import (
    NO_ANSWER,
    LostAnswerError,
    RepeatError,
    call_failure,
    connection_failure,
)
from pykcm.store.postgresql.pipelined_connection import Answer, Connection, PipelinedConnection
from pykcm.store.postgresql.prepared import Statement
from pykcm.store.postgresql.presence import Presence

log = logging.getLogger(__name__)

T = TypeVar("T")

# Commits never take the connections of reads, which are short. Look-ups are made one at a time.
COMMITS_AT_ONCE = 4
_READS_AT_ONCE = 3

# libpq's shortest limit, in seconds, for a connection to one of several hosts.
_SHORTEST_CONNECT_TIMEOUT = 2

# Settings of each connection, where the server knows them. A statement does not wait for a lock forever. A
# server ends the transaction of a host that has died: its locks are free after about 20 seconds.
_SETTINGS = """
    SELECT set_config(s.name, w.value, false) FROM pg_settings s JOIN (VALUES
        ('lock_timeout', %(lock)s), ('statement_timeout', %(statement)s), ('transaction_timeout', %(dead)s),
        ('idle_in_transaction_session_timeout', %(dead)s), ('tcp_user_timeout', %(dead)s),
        ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '2')
    ) AS w (name, value) ON w.name = s.name
"""
_DEAD = 20_000  # in milliseconds

# In seconds, before a statement is tried again that other transactions were in the way of.
_PAUSE = 0.02

Function = Callable[[Connection], Awaitable[T]]
Rows = list[tuple[Any, ...]]


class Database:
    """Calls functions with a connection, for at most `timeout` seconds.

    `stale_reads`: seconds after the last answer for which memory counts while the database is away.
    """

    def __init__(self, conninfo: str, timeout: float, stale_reads: float = 0.0) -> None:
        self.name = name_of(conninfo)
        self.timeout = timeout
        self.stale_reads = stale_reads
        self.presence = Presence(self.name, self._probe)
        self._conninfo, self._hosts = _with_limits(conninfo, timeout)
        self._idle: list[PipelinedConnection] = []
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._commits = asyncio.Semaphore(COMMITS_AT_ONCE)
        self._used: set[PipelinedConnection] = set()
        self._is_closed = False
        # Since the start.
        self._connected = self._calls = self._timeouts = self._lost_answers = 0

    def ask(self, statement: Statement, answered: Callable[[Rows | None], None]) -> bool:
        """Ask at once, without a task, if a connection is idle; returns whether that was possible.

        `answered` is called with the rows, or with None where this failed: `repeatable` asks again.
        """
        connection = None if self.presence.is_away else self._take_idle()
        if connection is None:
            return False
        begun = monotonic()

        def end(answer: Answer) -> None:
            self._give_back(connection)
            if isinstance(answer, list):
                self.presence.seen()
                answered(answer)
                return
            self._failure(answer, begun)
            answered(None)

        try:
            connection.send([statement], asyncio.get_running_loop().time() + self.timeout, end)
        except psycopg.Error:
            self._give_back(connection)
            return False
        self._calls += 1
        return True

    async def transact(self, statements: Sequence[Statement], *, end: float | None = None) -> Rows:
        """Run statements as one transaction, in one round trip; returns the rows of the first one.

        It needs no task, and creates one only where it has to wait for a connection. See `call`.
        """
        slots = self._commits
        connection = None if self.presence.is_away or slots.locked() else self._take_idle()
        if connection is None:
            return await asyncio.ensure_future(self._transact_later(statements, end))
        # Which does not wait.
        async with slots:
            limit = asyncio.get_running_loop().time() + self.timeout if end is None else end
            return await self._transact(connection, statements, limit)

    async def _transact_later(self, statements: Sequence[Statement], end: float | None) -> Rows:
        async with self._connection(self._commits, end, waits=True) as (connection, limit):
            return await self._transact(connection, statements, limit)

    async def _transact(
        self, connection: PipelinedConnection, statements: Sequence[Statement], end: float
    ) -> Rows:
        """Use the connection, and give it back."""
        begun = monotonic()
        self._calls += 1
        try:
            rows = await connection.execute(statements, end)
        except (psycopg.Error, TimeoutError) as error:
            raise self._failure(error, begun) from error
        finally:
            self._give_back(connection)
        self.presence.seen()
        return rows

    async def call(self, function: Function[T], *, end: float | None = None, waits: bool = True) -> T:
        """The function's result.

        `end`: in the event loop's time; None: after `timeout`, of which the database's absence is a part. Not
        `waits`: not for a database that is away.
        Raises StoreError, where nothing was changed; LostAnswerError, RepeatError, PartialConflictError.
        """
        async with self._connection(self._reads, end, waits=waits) as (connection, limit):
            self._calls += 1
            try:
                result = await self._run(connection, function, limit)
            finally:
                self._give_back(connection)
        self.presence.seen()
        return result

    @asynccontextmanager
    async def _connection(
        self, slots: asyncio.Semaphore, end: float | None, *, waits: bool
    ) -> AsyncIterator[tuple[PipelinedConnection, float]]:
        """A connection, which the caller gives back, and the end of the call; raises StoreError."""
        loop = asyncio.get_running_loop()
        patience = self.presence.patience(self.timeout) if end is None else end - loop.time()
        if not await self.presence.wait(patience if waits else 0.0):
            raise self.away()
        if end is None:
            end = loop.time() + self.timeout
        try:
            async with asyncio.timeout_at(end):
                await slots.acquire()
        except TimeoutError:
            raise StoreError(
                f"{self.name}: too many requests wait for the database", errno.ETIMEDOUT
            ) from None
        try:
            yield self._take_idle() or await self._connect(end, waits=waits), end
        finally:
            slots.release()

    def _give_back(self, connection: PipelinedConnection) -> None:
        self._used.discard(connection)
        if connection.closed:
            # The connections of a server that has ended are all broken.
            self._forget_idle()
        elif self._is_closed:
            connection.finish()
        else:
            self._idle.append(connection)

    def _note_ended(self, connection: PipelinedConnection) -> None:
        """The server has ended a connection that was idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def repeatable(self, function: Function[T], *, end: float | None = None, waits: bool = True) -> T:
        """As `call`, of a function that may run again when its answer was lost; raises StoreError."""
        loop = asyncio.get_running_loop()
        last = loop.time() + self.timeout if end is None else end
        was_lost = False
        while True:
            try:
                return await self.call(function, end=end, waits=waits)
            except LostAnswerError as lost:
                # At first the connection may have been an old one, of a server that was started again.
                if was_lost:
                    self.presence.lost(lost.error.reason)
                    if not (waits and await self.presence.wait(last - loop.time())):
                        raise lost.error from None
                was_lost = True
            except RepeatError:
                if loop.time() >= last:
                    raise StoreError(
                        f"{self.name}: other transactions are in the way", errno.ETIMEDOUT
                    ) from None
                await asyncio.sleep(_PAUSE)
            end = last

    def _take_idle(self) -> PipelinedConnection | None:
        """An idle connection that the server has not ended. On an ended one, a commit would be in doubt."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet():
                self._used.add(connection)
                return connection
            connection.finish()
        return None

    async def _connect(self, end: float, *, waits: bool) -> PipelinedConnection:
        """A connection. `waits`: the one that finds the database away waits for it until `end`, too.

        Raises StoreError.
        """
        loop = asyncio.get_running_loop()
        while True:
            begun = monotonic()
            try:
                async with asyncio.timeout_at(end):
                    connection = PipelinedConnection(await self.open(), self._note_ended)
            except TimeoutError:
                self.presence.lost(f"no connection within {monotonic() - begun:.1f} s; {NO_ANSWER}", begun)
            except psycopg.Error as error:
                self.presence.lost(connection_failure(error))
            else:
                self._used.add(connection)
                return connection
            if not (waits and await self.presence.wait(end - loop.time())):
                raise self.away()

    async def open(self) -> Connection:
        """A new connection, which the caller closes; raises StoreError after `close`, psycopg.Error."""
        self._check_open()
        cancellations = number_of_cancellations()
        connection = await Connection.connect(self._conninfo, autocommit=True)
        self._connected += 1
        milliseconds = int(self.timeout * 1000)
        limits = {"lock": milliseconds // 5, "statement": milliseconds, "dead": max(_DEAD, milliseconds)}
        try:
            self._check_open()
            await connection.execute(_SETTINGS, {name: str(limit) for name, limit in limits.items()})
            check_cancelled(cancellations)
            self._check_open()
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    async def _probe(self) -> None:
        # Each host of the connection string has its time.
        limit = max(self.timeout, (_SHORTEST_CONNECT_TIMEOUT + 1) * self._hosts)
        try:
            async with asyncio.timeout(limit):
                connection = PipelinedConnection(await self.open(), self._note_ended)
        except TimeoutError:
            raise OSError(f"no connection within {limit:g} s; {NO_ANSWER}") from None
        except psycopg.Error as error:
            raise OSError(connection_failure(error)) from None
        self._idle.append(connection)

    def statistics(self) -> dict[str, Any]:
        """The presence of the database, its connections, and counts since the start."""
        return {
            "name": self.name,
            **self.presence.statistics(),
            "connections_open": len(self._idle) + len(self._used),
            "connections_made": self._connected,
            "calls": self._calls,
            "timeouts": self._timeouts,
            "lost_answers": self._lost_answers,
        }

    def away(self) -> StoreError:
        return StoreError(
            f"{self.name}: the database cannot be reached: {self.presence.reason}",
            errno.ETIMEDOUT,
        )

    async def _run(self, connection: PipelinedConnection, function: Function[T], end: float) -> T:
        begun = monotonic()
        limit = _Limit(connection)
        timer = asyncio.get_running_loop().call_at(end, limit.expire)
        cancellations = number_of_cancellations()
        try:
            result = await function(connection.psycopg())
            check_cancelled(cancellations)
        except asyncio.CancelledError:
            connection.finish()
            raise
        except psycopg.Error as error:
            raise self._failure(TimeoutError() if limit.is_over else error, begun) from error
        else:
            return result
        finally:
            timer.cancel()
            if limit.is_over:
                connection.finish()

    def _failure(self, error: Exception, begun: float) -> Exception:
        """The error as `call` raises it; `begun`: monotonic time of the call."""
        failure: Exception
        if isinstance(error, psycopg.Error):
            failure = call_failure(self.name, error)
        else:
            reason = f"no answer within {self.timeout:g} s"
            self._timeouts += 1
            self.presence.lost(reason, begun)
            failure = LostAnswerError(StoreError(f"{self.name}: {reason}", errno.ETIMEDOUT))
        if isinstance(failure, LostAnswerError):
            self._lost_answers += 1
        return failure

    def _forget_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.finish()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError(f"{self.name}: this process ends", errno.ECANCELED)

    def close(self) -> None:
        """End all connections. A call in progress fails; those that come later raise StoreError."""
        self._is_closed = True
        self.presence.close()
        self._forget_idle()
        for connection in list(self._used):
            connection.end(psycopg.OperationalError("the store was closed"))


class _Limit:
    """Ends a call whose time is over."""

    def __init__(self, connection: PipelinedConnection) -> None:
        self._connection = connection
        self.is_over = False

    def expire(self) -> None:
        self.is_over = True
        self._connection.cut()


def number_of_cancellations() -> int:
    """How often this task was cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def check_cancelled(before: int) -> None:
    """Raise CancelledError if this task was cancelled since `number_of_cancellations` returned `before`.

    psycopg's calls can return as if nothing had happened: earlier versions use wait_for, which in Python 3.11
    swallows a cancellation that comes together with the answer.
    """
    if number_of_cancellations() > before:
        raise asyncio.CancelledError


def _with_limits(conninfo: str, timeout: float) -> tuple[str, int]:
    """The connection string with limits for what it does not limit itself, and its number of hosts."""
    parameters = psycopg.conninfo.conninfo_to_dict(conninfo)
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "").count(",") + 1
    limits: dict[str, object] = {
        # One host that does not answer leaves time for the next one.
        "connect_timeout": max(_SHORTEST_CONNECT_TIMEOUT, int(timeout / hosts)),
        "tcp_user_timeout": int(timeout * 1000),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "application_name": "pykcm",
        "client_encoding": "utf8",
    }
    together = {name: str(value) for name, value in (limits | parameters).items()}
    return psycopg.conninfo.make_conninfo(**together), hosts


def name_of(conninfo: str) -> str:
    """Host and database, for messages: a connection string may hold a password."""
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    where = parts.get("host") or parts.get("hostaddr") or "local"
    return f"postgresql {where}/{parts.get('dbname') or ''}"
