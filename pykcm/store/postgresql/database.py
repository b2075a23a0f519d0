"""Connections to the database: some that are kept, a limit of time for each call, and what an error means."""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from pykcm.store.interface import StoreError
from pykcm.store.postgresql.presence import Presence

log = logging.getLogger(__name__)

T = TypeVar("T")

# One commits, while the others read.
_CONNECTIONS = 4

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Function = Callable[[Connection], Awaitable[T]]


class LostAnswerError(Exception):
    """A statement was sent, and its outcome is not known."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error.reason)
        self.error = error


class RepeatError(Exception):
    """Another transaction was in the way: nothing was changed, and another attempt may succeed."""


class PartialConflictError(Exception):
    """Some UIDs of an entry have other versions: nothing was changed."""


class Database:
    """Calls functions with a connection, for at most `timeout` seconds.

    `stale_reads`: seconds after the last answer for which memory counts while the database is away.
    """

    def __init__(self, conninfo: str, timeout: float, stale_reads: float = 0.0) -> None:
        self.name = name_of(conninfo)
        self.timeout = timeout
        self.stale_reads = stale_reads
        self.presence = Presence(self.name, self._probe)
        self._conninfo = conninfo
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)

    async def call(self, function: Function[T]) -> T:
        """The function's result.

        Raises StoreError, where nothing was changed; LostAnswerError, RepeatError, PartialConflictError.
        """
        if not await self.presence.wait(self.timeout):
            raise self.away()
        end = asyncio.get_running_loop().time() + self.timeout
        async with self._slots:
            connection = self._idle.pop() if self._idle else await self._connect(end)
            try:
                result = await self._run(connection, function, end)
            finally:
                if connection.closed:
                    self._forget_idle()
                else:
                    self._idle.append(connection)
        self.presence.seen()
        return result

    async def repeatable(self, function: Function[T]) -> T:
        """As `call`, of a function that may run again when its answer was lost; raises StoreError."""
        try:
            return await self.call(function)
        except LostAnswerError:
            # The connection may have been an old one, of a server that was started again.
            pass
        except RepeatError:
            pass
        try:
            return await self.call(function)
        except LostAnswerError as lost:
            self.presence.lost(lost.error.reason)
            raise lost.error from None
        except RepeatError:
            raise StoreError(f"{self.name}: other transactions are in the way", errno.EAGAIN) from None

    async def _connect(self, end: float) -> Connection:
        """Raises StoreError."""
        try:
            async with asyncio.timeout_at(end):
                return await Connection.connect(
                    self._conninfo, autocommit=True, application_name="pykcm", client_encoding="utf8"
                )
        except TimeoutError:
            self.presence.lost(f"no connection within {self.timeout:g} s")
        except psycopg.Error as error:
            self.presence.lost(str(error).strip())
        raise self.away()

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                connection = await Connection.connect(self._conninfo, autocommit=True)
        except TimeoutError:
            raise OSError(f"no connection within {self.timeout:g} s") from None
        except psycopg.Error as error:
            raise OSError(str(error).strip()) from None
        await connection.close()

    def away(self) -> StoreError:
        return StoreError(
            f"{self.name}: the database cannot be reached: {self.presence.reason}; see to it and the network",
            errno.ETIMEDOUT,
        )

    async def _run(self, connection: Connection, function: Function[T], end: float) -> T:
        task = asyncio.current_task()
        assert task is not None
        limit = _Limit(connection, task)
        timer = asyncio.get_running_loop().call_at(end, limit.expire)
        try:
            return await function(connection)
        except asyncio.CancelledError:
            connection.pgconn.finish()
            if limit.is_over and not task.uncancel():
                self.presence.lost(f"no answer within {self.timeout:g} s")
                raise LostAnswerError(
                    StoreError(f"{self.name}: no answer within {self.timeout:g} s", errno.ETIMEDOUT)
                ) from None
            raise
        except errors.DivisionByZero as error:
            raise PartialConflictError from error
        except (errors.SerializationFailure, errors.DeadlockDetected) as error:
            raise RepeatError from error
        except psycopg.Error as error:
            raise self._explain(error) from error
        finally:
            timer.cancel()

    def _explain(self, error: psycopg.Error) -> StoreError | LostAnswerError:
        state = error.sqlstate or ""
        text = (error.diag.message_primary or str(error)).strip()
        if not state or state.startswith(_CONNECTION_ENDS):
            return LostAnswerError(StoreError(f"{self.name}: {text}"))
        for beginning, code, way_out in _MEANINGS:
            if state.startswith(beginning):
                return StoreError(f"{self.name}: {text}{way_out}", code)
        return StoreError(f"{self.name}: {text} (SQLSTATE {state})")

    def _forget_idle(self) -> None:
        """The connections of a server that has ended are all broken."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.pgconn.finish()

    def close(self) -> None:
        self.presence.close()
        self._forget_idle()


class _Limit:
    """Ends a call whose time is over."""

    def __init__(self, connection: Connection, task: "asyncio.Task[Any]") -> None:
        self._connection = connection
        self._task = task
        self.is_over = False

    def expire(self) -> None:
        self.is_over = True
        # Closed first: psycopg would have the server cancel a commit that waits for its standby, and that
        # commit stands all the same.
        self._connection.pgconn.finish()
        self._task.cancel()


# SQLSTATEs of connections that end: what was sent may have been done.
_CONNECTION_ENDS = ("08", "57P")

# Beginnings of SQLSTATEs, the system's errno, and what to do.
_MEANINGS = [
    ("53100", errno.ENOSPC, "; the database's disk is full: make room on it"),
    ("53200", errno.ENOMEM, "; the database is out of memory"),
    ("25006", errno.EROFS, "; this server only reads: add target_session_attrs=read-write"),
    ("42501", errno.EACCES, "; `pykcmctl store init --sql` prints the GRANTs"),
    ("3F000", errno.EIO, "; there is no schema: run `pykcmctl store init`"),
    ("42P01", errno.EIO, "; there is no schema: run `pykcmctl store init`"),
    ("42703", errno.EIO, "; the schema has another version: run `pykcmctl store check`"),
]


def name_of(conninfo: str) -> str:
    """Host and database, for messages: a connection string may hold a password."""
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    where = parts.get("host") or parts.get("hostaddr") or "local"
    return f"postgresql {where}/{parts.get('dbname') or ''}"
