"""A connection that sends statements and gets their answers through libpq's non-blocking calls.

psycopg opens the connection, and executes what is rare. Its asynchronous calls register the socket for each
statement, and the answer passes several iterations of the event loop: five times the cost of a bare round
trip. Here the socket is registered once, and the answer is handed on by the callback that has read it.
"""

import asyncio
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from socket import SHUT_RDWR, socket
from typing import Any

import psycopg
from psycopg import errors, pq

from pykcm.store.postgresql.prepared import Statement, encode, formats, numbered, rows_of, type_of

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

# The rows of the first statement, or the error of the first one that failed.
Answer = list[tuple[Any, ...]] | Exception

_IN_BINARY = pq.Format.BINARY

_DONE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


class PipelinedConnection:
    """A connection in libpq's pipeline mode, with one transaction in progress at a time.

    `ended` is called when the server has ended the connection and nothing was in progress; `notified` with
    the payload of each notification, except those that come during psycopg's own calls.
    """

    def __init__(
        self,
        connection: Connection,
        ended: Callable[["PipelinedConnection"], None],
        notified: Callable[[bytes], None] | None = None,
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._ended = ended
        self._notified = notified
        # The socket, while the event loop watches it. Then libpq is in pipeline mode.
        self._fd = -1
        self._is_watched_for_room = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # Statements that the server has prepared or will prepare, with their names.
        self._prepared: dict[str, bytes] = {}
        self._names = 0
        # Of the transaction in progress: the statement of each message that prepares one, None of each that
        # executes one; the results of the latter; and the first error.
        self._sent: list[str | None] = []
        self._answers = 0
        self._first: pq.abc.PGresult | None = None
        self._error: Exception | None = None
        self._answered: Callable[[Answer], None] | None = None
        self._poll = select.poll()
        self._poll.register(connection.pgconn.socket, select.POLLIN)
        # In the loop's time. The timer is not cancelled for each answer: it looks whether it is late.
        self._end = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        return self._connection.closed

    def is_quiet(self) -> bool:
        """Whether the server has sent nothing since its last answer: no end, nor what announces it."""
        return not self._poll.poll(0)

    def psycopg(self) -> Connection:
        """The connection for psycopg's own calls, until the next `send`. Nothing may be in progress."""
        if self._fd >= 0:
            self._ignore()
            self._pgconn.exit_pipeline_mode()
        return self._connection

    def send(self, statements: Sequence[Statement], end: float, answered: Callable[[Answer], None]) -> None:
        """Send statements as one transaction and one message. Nothing may be in progress.

        `answered` is called later, once: with psycopg.Error for an error, TimeoutError if there is no answer
        at `end` in the loop's time. The connection is closed where the outcome is not known.
        Raises psycopg.Error; then `answered` is not called.
        """
        self._sent.clear()
        self._answers = 0
        self._first = self._error = None
        try:
            self._watch()
            for statement, parameters in statements:
                self._send_one(statement, parameters)
            self._pgconn.pipeline_sync()
            self._flush()
        except BaseException:
            self.finish()
            raise
        self._answered = answered
        self._end = end
        if self._timer is None or self._timer.when() > end:
            self._set_timer()

    async def execute(self, statements: Sequence[Statement], end: float) -> list[tuple[Any, ...]]:
        """As `send`; returns the rows of the first statement. Raises psycopg.Error, TimeoutError.

        A caller without a task may await it. If the caller is cancelled, the connection is closed.
        """
        answer: asyncio.Future[list[tuple[Any, ...]]] = asyncio.get_running_loop().create_future()
        self.send(statements, end, partial(_settle, answer))
        try:
            return await answer
        except (psycopg.Error, TimeoutError):
            raise
        except BaseException:
            self.finish()
            raise

    def _send_one(self, statement: str, parameters: Any) -> None:
        text, names = numbered(statement)
        values = [parameters[name] for name in names]
        name = self._prepared.get(statement)
        if name is None:
            self._names += 1
            name = self._prepared[statement] = b"pykcm_%d" % self._names
            self._pgconn.send_prepare(name, text, [type_of(value) for value in values])
            self._sent.append(statement)
        encoded = [encode(value) for value in values]
        self._pgconn.send_query_prepared(name, encoded, formats(len(values)), _IN_BINARY)
        self._sent.append(None)

    # Called by the event loop

    def _on_bytes(self) -> None:
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            was_none = False
            while not pgconn.is_busy() and self._answered is not None:
                result = pgconn.get_result()
                if self._notified is not None:
                    # Those that came before an answer are handed on before it.
                    self._take_notifications(self._notified)
                if result is not None:
                    self._take(result)
                elif was_none:
                    # libpq expects nothing more.
                    raise psycopg.OperationalError("the connection was lost")
                was_none = result is None
            if self._notified is not None:
                self._take_notifications(self._notified)
        except psycopg.Error as error:
            self._fail(error)
        else:
            if pgconn.status == pq.ConnStatus.BAD:
                self._fail(psycopg.OperationalError("the connection was lost"))

    def _take_notifications(self, notified: Callable[[bytes], None]) -> None:
        while (notification := self._pgconn.notifies()) is not None:
            notified(notification.extra)

    def _take(self, result: pq.abc.PGresult) -> None:
        """Take the result of the next message. After each one libpq has a None, except after the last."""
        status = result.status
        if status == pq.ExecStatus.PIPELINE_SYNC:
            self._end_transaction()
            return
        prepared = self._sent[self._answers] if self._answers < len(self._sent) else None
        self._answers += 1
        if status in _DONE:
            if prepared is None and self._first is None:
                self._first = result
            return
        if prepared is not None:
            self._prepared.pop(prepared, None)
        # Those that follow are not executed, which is no error of theirs.
        if self._error is None and status != pq.ExecStatus.PIPELINE_ABORTED:
            self._error = errors.error_from_result(result)

    def _end_transaction(self) -> None:
        answered, self._answered = self._answered, None
        error, self._error = self._error, None
        first, self._first = self._first, None
        assert answered is not None
        if error is not None:
            answered(error)
        else:
            assert first is not None
            answered(rows_of(first))

    def _flush(self) -> None:
        if self._pgconn.flush():
            if not self._is_watched_for_room:
                self._is_watched_for_room = True
                assert self._loop is not None
                self._loop.add_writer(self._fd, self._on_room)
        elif self._is_watched_for_room:
            self._ignore_room()

    def _on_room(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._fail(error)

    def _on_time(self) -> None:
        self._timer = None
        assert self._loop is not None
        if self._answered is not None:
            if self._loop.time() < self._end:
                self._set_timer()
            else:
                self._fail(TimeoutError())

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert self._loop is not None
        self._timer = self._loop.call_at(self._end, self._on_time)

    # The socket

    def _watch(self) -> None:
        if self._fd < 0:
            self._pgconn.enter_pipeline_mode()
            self._loop = asyncio.get_running_loop()
            self._fd = self._pgconn.socket
            self._loop.add_reader(self._fd, self._on_bytes)

    def _ignore(self) -> None:
        fd, self._fd = self._fd, -1
        loop = self._loop
        if fd >= 0 and loop is not None and not loop.is_closed():
            self._ignore_room(fd)
            # libpq closes the socket of a connection that is lost.
            with suppress(OSError):
                loop.remove_reader(fd)

    def _ignore_room(self, fd: int | None = None) -> None:
        if self._is_watched_for_room:
            self._is_watched_for_room = False
            assert self._loop is not None
            with suppress(OSError):
                self._loop.remove_writer(self._fd if fd is None else fd)

    # The end

    def _fail(self, error: Exception) -> None:
        """End the connection. The error that the server has sent first says more than one of the socket."""
        answered, self._answered = self._answered, None
        error = self._error or error
        self.finish()
        if answered is None:
            self._ended(self)
        else:
            answered(error)

    def cut(self) -> None:
        """Have psycopg's own call fail, which is in progress.

        If it were cancelled, psycopg would have the server cancel a commit that waits for its standby, and
        that commit stands all the same. If the socket were closed, the event loop would still watch its
        number, which the next client gets.
        """
        with suppress(OSError, psycopg.Error), socket(fileno=os.dup(self._pgconn.socket)) as duplicate:
            duplicate.shutdown(SHUT_RDWR)

    def end(self, error: Exception) -> None:
        """Let what is in progress fail with the error, and end the connection.

        One that psycopg's own call uses is closed by the caller of that call.
        """
        if self._fd < 0:
            self.cut()
        elif self._loop is None or self._loop.is_closed():
            # Nobody waits any more.
            self.finish()
        else:
            self._fail(error)

    def finish(self) -> None:
        """Close at once; nobody gets an answer. The server is not asked to cancel what it executes."""
        self._answered = self._error = self._first = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ignore()
        self._pgconn.finish()


def _settle(future: "asyncio.Future[list[tuple[Any, ...]]]", answer: Answer) -> None:
    if future.done():
        return
    if isinstance(answer, list):
        future.set_result(answer)
    else:
        future.set_exception(answer)
