"""The session with the daemon: TGTs that are due come, and are handed back with the result."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, closing
from typing import Any

from pykcm.control.messages import ControlError, ErrorCode
from pykcm.logs import LimitedLog, User
from pykcm.protocol.text import escape, escape_path
from pykcm.renew.connection import Answer, Connection, Limits, Tgt
from pykcm.renew.failures import RenewalError, kdc_code
from pykcm.renew.pool import Pool

log = logging.getLogger(__name__)

# Lines a minute about one UID; and about one realm, whose KDC may fail for thousands of TGTs. A user may have
# TGTs of many realms: both limits apply.
_RENEWED = LimitedLog(log, "renewed TGTs", 10)
_FAILED = LimitedLog(log, "failed renewals", 10)
_OF_KDC = LimitedLog(log, "failed renewals", 3)

# Failures that concern a realm, and not one ccache.
_OF_REALM = {"unreachable", "timeout", "clock"}

# In seconds.
_RETRY = 1.0
_REFUSED_RETRY = 5.0
_MOST_SECONDS_BETWEEN_WAKES = 60.0
_WAKE = 10.0

# Errors of the daemon that would come again if the same result were sent again.
_ABOUT_A_RESULT = {ErrorCode.ARGUMENTS, ErrorCode.MALFORMED, ErrorCode.INTERNAL}

_Outcome = bytes | RenewalError


class Session:
    """Renews TGTs as long as the program runs, with a daemon that may end and start again.

    `control_path`, `kcm_path`: the sockets of the daemon. `make_pool` returns a pool for so many attempts.
    """

    def __init__(self, control_path: str, kcm_path: str, make_pool: Callable[[int], Pool]) -> None:
        self._control_path = control_path
        self._kcm_path = kcm_path
        self._make_pool = make_pool
        # When to start a daemon that does not run, by the clock. At first nobody knows what is due.
        self._wake_at = 0.0
        # Not before this time of the event loop's clock, which nobody sets.
        self._wakes_again = 0.0
        self._between_wakes = _RETRY
        self._complaint = ""

    async def run(self) -> None:
        """Never returns."""
        while True:
            pause = _RETRY
            try:
                await self._serve()
            except (FileNotFoundError, ConnectionRefusedError):
                await self._start_daemon_if_due()
            except ControlError as error:
                self._complain(f"{error.code}: {error.message}")
                pause = _REFUSED_RETRY
            except PermissionError as error:
                self._complain(f"{escape_path(self._control_path)}: {error.strerror}")
                pause = _REFUSED_RETRY
            except OSError as error:
                log.debug("the connection to the daemon ended: %s", error.strerror or error)
                # It may have been killed, and what it knew of due TGTs with it.
                self._wake_at = 0.0
                self._wakes_again = asyncio.get_running_loop().time() + self._between_wakes
            await asyncio.sleep(pause)

    async def _serve(self) -> None:
        connection = await Connection.open(self._control_path, "renewals")
        with closing(connection), contextlib.ExitStack() as stack:
            attempts: _Attempts | None = None
            async with aclosing(connection.items()) as items:
                async for item in items:
                    if item.renewals is not None and attempts is None:
                        attempts = stack.enter_context(closing(self._begin(item.renewals)))
                    if item.tgt is not None and attempts is not None:
                        attempts.begin(item.tgt)
        self._on_end(connection.end.next_due)

    def _begin(self, limits: Limits) -> "_Attempts":
        log.info(
            "ready: the daemon at %s hands over TGTs that are due, at most %d at once",
            escape_path(self._control_path),
            limits.max_renewals,
        )
        self._complaint = ""
        self._between_wakes = _RETRY
        return _Attempts(self._control_path, self._make_pool(limits.max_renewals))

    def _on_end(self, next_due: float | None) -> None:
        self._wake_at = math.inf if next_due is None else next_due
        log.info(
            "the daemon has ended; %s",
            "no TGT is going to be due"
            if next_due is None
            else f"the next TGT is due at {_text_of(next_due)}",
        )

    async def _start_daemon_if_due(self) -> None:
        """Start the daemon if a TGT is due: its socket unit starts it when a client connects."""
        now = asyncio.get_running_loop().time()
        if time.time() < self._wake_at or now < self._wakes_again:
            return
        self._wakes_again = now + self._between_wakes
        self._between_wakes = min(2 * self._between_wakes, _MOST_SECONDS_BETWEEN_WAKES)
        try:
            async with asyncio.timeout(_WAKE):
                _, writer = await asyncio.open_unix_connection(self._kcm_path)
        except OSError as error:
            self._complain(
                f"{escape_path(self._kcm_path)}: {error.strerror or 'no answer'}: the daemon does not run"
            )
            return
        writer.close()

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("no TGT is renewed meanwhile: %s", text)
        self._complaint = text


class _Attempts:
    """The attempts of one connection, and their results until the daemon has answered them."""

    def __init__(self, control_path: str, pool: Pool) -> None:
        self._control_path = control_path
        self._pool = pool
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: dict[bytes, tuple[Tgt, _Outcome]] = {}
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self._create_task(self._hand_back())

    def begin(self, tgt: Tgt) -> None:
        self._create_task(self._attempt(tgt))

    def close(self) -> None:
        """Give all attempts up; the daemon has given them up already."""
        for task in self._tasks:
            task.cancel()
        self._pool.close()

    def _create_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, tgt: Tgt) -> None:
        outcome: _Outcome
        try:
            outcome = await self._pool.renew(tgt.credential, tgt.kdc_offset)
        except RenewalError as error:
            outcome = error
        self._results[tgt.id] = (tgt, outcome)
        self._unsent.put_nowait(tgt.id)

    async def _hand_back(self) -> None:
        """Send results, as long as the attempts go on. Unanswered ones are sent again on a new connection."""
        while True:
            first = await self._unsent.get()
            try:
                await self._exchange(first)
            except ControlError as error:
                log.error("the daemon does not take renewed TGTs: %s: %s", error.code, error.message)  # noqa: TRY400
                if error.code in _ABOUT_A_RESULT and self._results:
                    # The daemon answers in order: it means the first result that it has not answered.
                    del self._results[next(iter(self._results))]
            except OSError as error:
                log.log(
                    logging.WARNING if self._results else logging.DEBUG,
                    "the connection for renewed TGTs ended, and is made again: %s",
                    error,
                )
            await asyncio.sleep(_RETRY)
            self._unsent = asyncio.Queue()
            for number in self._results:
                self._unsent.put_nowait(number)

    async def _exchange(self, first: bytes) -> None:
        connection = await Connection.open(self._control_path, "renewed")
        with closing(connection):
            sending = asyncio.create_task(self._send(connection, first))
            try:
                async with aclosing(connection.items()) as items:
                    async for item in items:
                        if item.renewed is not None:
                            self._on_answer(item.renewed)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, connection: Connection, first: bytes) -> None:
        number = first
        while True:
            _, outcome = self._results[number]
            await connection.send(_frame_of(number, outcome))
            number = await self._unsent.get()

    def _on_answer(self, answer: Answer) -> None:
        found = self._results.pop(answer.id, None)
        if found is not None:
            _log_result(*found, answer)


def _frame_of(number: bytes, outcome: _Outcome) -> dict[str, object]:
    if isinstance(outcome, bytes):
        return {"id": number, "credential": outcome}
    failure = {
        "reason": outcome.reason,
        "code": outcome.code,
        "message": outcome.message,
        "again": outcome.again,
    }
    return {"id": number, "failure": failure}


def _log_result(tgt: Tgt, outcome: _Outcome, answer: Answer) -> None:
    name = f"KCM:{escape(tgt.ccache)} of {User(tgt.uid)}: the TGT of {tgt.client}"
    log.debug("%s: the daemon's answer: %s", name, answer.result)
    if isinstance(outcome, bytes):
        words = {
            "renewed": "is renewed",
            "changed": "was replaced or removed during the renewal, and stays as it is",
            "unknown": "is renewed, but too late: the daemon had given this attempt up",
        }.get(answer.result, "is not what the daemon accepts as the same TGT, renewed")
        level = logging.INFO if answer.result in {"renewed", "changed"} else logging.WARNING
        _RENEWED.write(level, tgt.uid, "%s %s", name, words)
        return
    if not _FAILED.counts(logging.WARNING, tgt.uid):
        return
    if outcome.reason in _OF_REALM and not _OF_KDC.counts(logging.WARNING, f"realm {escape(tgt.realm)}"):
        return
    log.warning(
        "%s was not renewed (%s): %s%s; %s",
        name,
        outcome.reason,
        outcome.message,
        _codes_of(outcome.code),
        _next_attempt(answer, tgt),
    )


def _codes_of(code: int) -> str:
    if not code:
        return ""
    number = kdc_code(code)
    return f" (libkrb5's code {code})" if number is None else f" (Kerberos error {number})"


def _next_attempt(answer: Answer, tgt: Tgt) -> str:
    if answer.result == "unknown":
        return "the daemon had given this attempt up"
    if answer.next_attempt is None:
        return f"there is no further attempt, and it ends at {_text_of(tgt.end)}"
    return f"the next attempt is at {_text_of(answer.next_attempt)}"


def _text_of(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
