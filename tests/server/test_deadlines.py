"""Deadlines of incomplete requests: by a clock that the tests move, and over real sockets."""

import asyncio
import time
from collections.abc import Callable

import pytest

from pykcm.logs import User
from pykcm.protocol.opcodes import Opcode
from pykcm.server.connection import State
from pykcm.server.deadlines import Deadlines, Late
from tests.server.listening import GET_PRINCIPAL, NOOP, UID, Listen, Listening, request
from tests.server.waiting import settle, until

PATIENCE = 30.0

# Of real connections: short, and long enough for what is on its way.
REAL_PATIENCE = 0.2


class Timer:
    """A timer of FakeLoop."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback


class FakeLoop:
    """An event loop's clock and timers."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def call_soon(self, callback: Callable[[], object]) -> Timer:
        return self.call_at(self.now, callback)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when <= end]:
            timer = min(due, key=lambda each: each.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = end

    def stand_still(self, seconds: float) -> None:
        """The process is stopped for this time, and then continued."""
        self.now += seconds
        self.pass_time(0)


class Incomplete:
    """An incomplete request that notes when it was given up."""

    def __init__(self, loop: FakeLoop) -> None:
        self.loop = loop
        self.given_up: list[float] = []
        self.afterwards: Callable[[], object] = lambda: None

    def give_up(self) -> None:
        self.given_up.append(self.loop.now)
        self.afterwards()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    loop = FakeLoop()
    monkeypatch.setattr("pykcm.server.deadlines.asyncio.get_running_loop", lambda: loop)
    return loop


@pytest.fixture
def deadlines(loop: FakeLoop) -> Deadlines:
    return Deadlines(PATIENCE)


def test_request_that_is_complete_in_time_is_not_given_up(loop: FakeLoop, deadlines: Deadlines) -> None:
    """A request that ends in time is not given up; ending an unknown one does nothing."""
    one = Incomplete(loop)
    deadlines.end(one)
    deadlines.begin(one)
    loop.pass_time(PATIENCE - 0.001)
    deadlines.end(one)
    loop.pass_time(10 * PATIENCE)
    assert one.given_up == []
    assert loop.timers == []


def test_late_request_is_given_up(loop: FakeLoop, deadlines: Deadlines) -> None:
    """A request that is late is given up once, within a tenth of the patience."""
    one = Incomplete(loop)
    deadlines.begin(one)
    loop.pass_time(PATIENCE - 0.001)
    assert one.given_up == []
    loop.pass_time(10 * PATIENCE)
    (when,) = one.given_up
    assert 1000 + PATIENCE <= when <= 1000 + 1.1 * PATIENCE + 0.001


def test_begin_again_does_not_extend_the_deadline(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Beginning a request again does not extend its deadline; after its end it has a new one."""
    trickling, new = Incomplete(loop), Incomplete(loop)
    for one in (trickling, new):
        deadlines.begin(one)
    for _ in range(32):
        loop.pass_time(1)
        deadlines.begin(trickling)
    deadlines.end(new)
    deadlines.begin(new)
    loop.pass_time(1.001)
    assert len(trickling.given_up) == 1
    assert new.given_up == []
    loop.pass_time(1.1 * PATIENCE)
    assert len(new.given_up) == 1


def test_each_request_has_its_own_deadline(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Each request is given up at its own time, by one timer at most, whatever other requests do."""
    begun = [Incomplete(loop) for _ in range(10)]
    for one in begun:
        deadlines.begin(one)
        loop.pass_time(2)
        assert len(loop.timers) == 1
    for one in (begun[0], begun[4], begun[9]):
        deadlines.end(one)
    loop.pass_time(10 * PATIENCE)
    for number, one in enumerate(begun):
        if number in {0, 4, 9}:
            assert one.given_up == []
        else:
            (when,) = one.given_up
            assert PATIENCE <= when - (1000 + 2 * number) <= 1.1 * PATIENCE + 0.001
    assert loop.timers == []
    assert len(deadlines) == 0


def test_no_timer_runs_without_requests(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Without requests the event loop is woken once at most; a later request has its full time."""
    first, second = Incomplete(loop), Incomplete(loop)
    deadlines.begin(first)
    deadlines.end(first)
    loop.pass_time(PATIENCE)
    assert loop.timers == []
    deadlines.begin(second)
    began = loop.now
    loop.pass_time(2 * PATIENCE)
    (when,) = second.given_up
    assert PATIENCE <= when - began <= 1.1 * PATIENCE + 0.001


def test_giving_up_may_end_other_requests(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Giving up one request may end another that is due at the same time; the rest are given up."""
    begun = [Incomplete(loop) for _ in range(4)]
    for one in begun:
        deadlines.begin(one)
    begun[0].afterwards = lambda: deadlines.end(begun[2])
    loop.pass_time(2 * PATIENCE)
    assert [bool(one.given_up) for one in begun] == [True, True, False, True]


@pytest.mark.parametrize("before", [0.0, 1.0, 15.0, 29.0, 32.9])
def test_stopped_daemon_gives_up_nothing_at_once(loop: FakeLoop, deadlines: Deadlines, before: float) -> None:
    """After a stop, however long, the daemon reads what has arrived before it gives up a request."""
    one = Incomplete(loop)
    deadlines.begin(one)
    loop.pass_time(before)
    loop.stand_still(10 * PATIENCE)
    assert one.given_up == []
    loop.pass_time(1.1 * PATIENCE)
    assert len(one.given_up) == 1


def test_many_late_requests_are_given_up_in_parts(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Of many late requests, a part is given up in each iteration of the event loop."""
    begun = [Incomplete(loop) for _ in range(1000)]
    for one in begun:
        deadlines.begin(one)
    given_up_at_once: list[int] = []
    while len(deadlines):
        before = len(deadlines)
        timer = loop.timers.pop(0)
        loop.now = timer.when
        timer.callback()
        given_up_at_once.append(before - len(deadlines))
    assert max(given_up_at_once) <= 50
    assert all(len(one.given_up) == 1 for one in begun)
    assert loop.timers == []


# Over sockets


async def test_connection_of_a_late_request_is_closed(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection whose request is late is closed and logged; idle connections stay open."""
    listening = await listen(patience=REAL_PATIENCE)
    late, idle = await listening.connected(), await listening.connected()
    assert await idle.ask(NOOP) == (0, b"")
    before = time.monotonic()
    await late.send(NOOP + GET_PRINCIPAL[:5])
    assert await late.reply() == (0, b"")
    assert await late.is_closed()
    assert time.monotonic() - before >= REAL_PATIENCE - 0.01
    assert await idle.ask(NOOP) == (0, b"")
    (message,) = caplog.messages
    assert message.startswith(f"{User(UID)}, process ")
    assert "a request was not complete within" in message


async def test_trickling_bytes_do_not_extend_the_deadline(listen: Listen) -> None:
    """A client that sends a byte now and then is cut off all the same."""
    listening = await listen(patience=REAL_PATIENCE)
    client = await listening.connected()
    message = request(Opcode.NOOP, bytes(100_000))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - one of many does
        for at in range(len(message)):
            await client.send(message[at : at + 1])
            await asyncio.sleep(REAL_PATIENCE / 50)
    assert listening.made[0].state is State.CLOSED


async def test_deadline_of_each_request_begins_with_it(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose every message ends within a request has a new deadline for each request."""
    begin, end = listening.deadlines.begin, listening.deadlines.end
    calls: list[str] = []

    def noted_begin(late: Late) -> None:
        calls.append("begin")
        begin(late)

    def noted_end(late: Late) -> None:
        calls.append("end")
        end(late)

    monkeypatch.setattr(listening.deadlines, "begin", noted_begin)
    monkeypatch.setattr(listening.deadlines, "end", noted_end)
    client = await listening.connected()
    await client.send(NOOP[:6])
    for _ in range(5):
        await until(lambda: listening.made[0].state is State.RECEIVING)
        await client.send(NOOP[6:] + NOOP[:6])
        assert await client.reply() == (0, b"")
    await until(lambda: listening.made[0].state is State.RECEIVING)
    await client.send(NOOP[6:])
    assert await client.reply() == (0, b"")
    assert len(listening.deadlines) == 0
    assert calls == ["begin", "end"] * 6


async def test_client_that_is_not_read_has_no_deadline(listen: Listen) -> None:
    """While the server does not read a connection, its client has no deadline; afterwards it has one."""
    listening = await listen(patience=REAL_PATIENCE)
    client, other = await listening.connected(), await listening.connected()
    gate = await listening.hold(client)
    await client.send(NOOP + GET_PRINCIPAL[:5])
    await settle()
    assert len(listening.deadlines) == 0
    # The patience passes: another client, which is read, is late.
    await other.send(NOOP[:5])
    assert await other.is_closed()
    gate.set()
    assert [await client.reply() for _ in range(2)] == [(0, b"")] * 2
    assert len(listening.deadlines) == 1
    assert await client.is_closed()
