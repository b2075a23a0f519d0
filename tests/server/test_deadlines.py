"""What has begun must be complete in time: by a clock that the tests move."""

from collections.abc import Callable

import pytest

from pykcm.server.deadlines import Deadlines

PATIENCE = 30.0


class Timer:
    """Called by the loop of a test when its time has come."""

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
        """The process is stopped for so long, and then continued."""
        self.now += seconds
        self.pass_time(0)


class Begun:
    """Notes when it was given up."""

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


def test_in_time(loop: FakeLoop, deadlines: Deadlines) -> None:
    """What ends in time is not given up; to end what has not begun is nothing."""
    one = Begun(loop)
    deadlines.end(one)
    deadlines.begin(one)
    loop.pass_time(PATIENCE - 0.001)
    deadlines.end(one)
    loop.pass_time(10 * PATIENCE)
    assert one.given_up == []
    assert loop.timers == []


def test_late(loop: FakeLoop, deadlines: Deadlines) -> None:
    """What is not complete when the time is over is given up, once, within a tenth of the time."""
    one = Begun(loop)
    deadlines.begin(one)
    loop.pass_time(PATIENCE - 0.001)
    assert one.given_up == []
    loop.pass_time(10 * PATIENCE)
    (when,) = one.given_up
    assert 1000 + PATIENCE <= when <= 1000 + 1.1 * PATIENCE + 0.001


def test_no_more_time(loop: FakeLoop, deadlines: Deadlines) -> None:
    """To begin again what has begun gives it no more time; after an end it has all of it."""
    trickling, new = Begun(loop), Begun(loop)
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


def test_each_has_its_own_time(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Each is given up at its own time, whoever else has ended or begun, and there is one timer at most."""
    begun = [Begun(loop) for _ in range(10)]
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


def test_nothing_begun_is_no_timer(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Where nothing has begun the loop is not woken more than once, and later the time is kept again."""
    first, second = Begun(loop), Begun(loop)
    deadlines.begin(first)
    deadlines.end(first)
    loop.pass_time(PATIENCE)
    assert loop.timers == []
    deadlines.begin(second)
    began = loop.now
    loop.pass_time(2 * PATIENCE)
    (when,) = second.given_up
    assert PATIENCE <= when - began <= 1.1 * PATIENCE + 0.001


def test_one_that_ends_another(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Giving up one may end others that are due at the same time; those that are left are given up."""
    begun = [Begun(loop) for _ in range(4)]
    for one in begun:
        deadlines.begin(one)
    begun[0].afterwards = lambda: deadlines.end(begun[2])
    loop.pass_time(2 * PATIENCE)
    assert [bool(one.given_up) for one in begun] == [True, True, False, True]


@pytest.mark.parametrize("before", [0.0, 1.0, 15.0, 29.0, 32.9])
def test_a_daemon_that_was_stopped(loop: FakeLoop, deadlines: Deadlines, before: float) -> None:
    """After a stop, however long, the daemon looks for what has arrived before it gives anything up."""
    one = Begun(loop)
    deadlines.begin(one)
    loop.pass_time(before)
    loop.stand_still(10 * PATIENCE)
    assert one.given_up == []
    loop.pass_time(1.1 * PATIENCE)
    assert len(one.given_up) == 1


def test_many_that_are_late(loop: FakeLoop, deadlines: Deadlines) -> None:
    """Of many that are late at once, some are given up before the event loop sees to others."""
    begun = [Begun(loop) for _ in range(1000)]
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
