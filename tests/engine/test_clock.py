"""The clock that decides what is removed: a clock that moved by days is in doubt for an hour of running."""

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine.clock import UNKNOWN, CheckedClock, ClockKeeper, open_clock
from pykcm.engine.reaper import Reaper
from pykcm.store.interface import Store
from pykcm.store.sighting import read_sighting, write_sighting
from tests.builders import ALICE, Clock, refused, ticket
from tests.server.asking import Server
from tests.server.programs import listed
from tests.server.waiting import until

HOUR, DAY = 3600, 86400
# Of the year 2027.
NOW = 1_800_000_000


class Machine:
    """A clock that can be set, beside one that nobody sets."""

    def __init__(self, now: float = NOW) -> None:
        self.wall = Clock(now)
        self.steady = Clock(100)

    def run(self, seconds: float) -> None:
        self.wall.now += seconds
        self.steady.now += seconds

    def set(self, seconds: float) -> None:
        """Set the clock forward, or back where this is negative."""
        self.wall.now += seconds

    def started(self, last: float | None) -> CheckedClock:
        return CheckedClock(last, wall=self.wall, steady=self.steady)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("last", [None, NOW - DAY, NOW + DAY, NOW])
def test_a_clock_that_moved_by_a_day_at_most_is_believed_at_start(
    machine: Machine, caplog: pytest.LogCaptureFixture, last: float | None
) -> None:
    """Nothing is stored yet, or the last reading was at most a day ago, or ahead: that is the time."""
    clock = machine.started(last)
    assert clock.is_believed()
    assert clock.doubt() is None
    assert clock.removal_time() == NOW
    assert caplog.records == []


@pytest.mark.parametrize(
    ("last", "moved", "removal_time"),
    [(NOW - DAY - 1, DAY + 1, NOW - DAY - 1), (NOW + 3 * DAY, -3 * DAY, NOW), (UNKNOWN, None, 0)],
    ids=["ahead", "back", "unknown"],
)
def test_a_clock_that_moved_by_days_is_in_doubt_for_an_hour(
    machine: Machine, last: float, moved: int | None, removal_time: float
) -> None:
    """Until it has run on for an hour, the earlier one of both times decides; then the clock does."""
    clock = machine.started(last)
    assert not clock.is_believed()
    assert clock.doubt() == (moved, HOUR)
    assert clock.removal_time() == removal_time
    machine.run(HOUR - 1)
    assert clock.doubt() == (moved, 1)
    assert clock.removal_time() == removal_time + HOUR - 1
    machine.run(1)
    assert clock.is_believed()
    assert clock.removal_time() == machine.wall.now


@pytest.mark.parametrize("days", [3, -3])
def test_a_clock_that_is_set_while_the_daemon_runs_is_in_doubt(
    machine: Machine, caplog: pytest.LogCaptureFixture, days: int
) -> None:
    """It is compared with a clock that nobody sets, whenever that was asked last; the log says so once."""
    clock = machine.started(NOW)
    machine.run(10 * DAY)
    assert clock.is_believed()
    machine.set(days * DAY)
    for _ in range(5):
        machine.run(60)
        assert clock.removal_time() == min(NOW + 10 * DAY, NOW + (10 + days) * DAY) + machine.steady.now - (
            100 + 10 * DAY
        )
    (warning,) = warnings(caplog)
    assert f"the clock moved {'forward' if days > 0 else 'back'} by 3.0 days" in warning
    machine.run(HOUR)
    assert clock.is_believed()
    assert len(warnings(caplog)) == 1


def test_steps_within_an_hour_are_added_up(machine: Machine) -> None:
    """A clock that is set by less than a day, and soon again, is compared with where it was before both."""
    clock = machine.started(NOW)
    for _ in range(2):
        assert clock.is_believed()
        machine.set(20 * HOUR)
        machine.run(1)
    assert not clock.is_believed()
    assert clock.removal_time() == NOW + 2


def test_a_clock_that_is_set_right_is_believed_at_once(machine: Machine) -> None:
    """A clock that comes back to where it was is as good as before."""
    clock = machine.started(NOW)
    machine.set(3 * DAY)
    assert not clock.is_believed()
    machine.run(600)
    machine.set(-3 * DAY)
    assert clock.is_believed()
    assert clock.removal_time() == NOW + 600


def test_a_clock_that_is_set_again_runs_an_hour_from_then(machine: Machine) -> None:
    """The hour begins anew when a clock in doubt moves by more than a day again."""
    clock = machine.started(NOW)
    machine.set(3 * DAY)
    assert not clock.is_believed()
    machine.run(HOUR - 60)
    machine.set(3 * DAY)
    assert not clock.is_believed()
    machine.run(HOUR - 60)
    assert not clock.is_believed()
    machine.run(60)
    assert clock.is_believed()


def test_an_administrator_may_say_that_it_is_right(machine: Machine) -> None:
    """It is believed at once, and what comes after is compared with it."""
    clock = machine.started(NOW - 9 * DAY)
    clock.believe()
    assert clock.is_believed()
    assert clock.removal_time() == NOW
    machine.set(-9 * DAY)
    assert not clock.is_believed()


# From one run to the next


def test_a_wrong_clock_of_a_short_run_is_not_kept(
    machine: Machine, tmp_path: Path, runner: asyncio.Runner
) -> None:
    """Short runs with a wrong clock do not add up, and a next run with the right one is fine."""
    runner.run(ClockKeeper(machine.started(None), tmp_path).keep())
    for _ in range(3):
        machine.set(3 * DAY)
        keeper = ClockKeeper(machine.started(read_sighting(tmp_path)), tmp_path)
        machine.run(HOUR / 2)
        runner.run(keeper.keep())
        assert not keeper.clock.is_believed()
        assert read_sighting(tmp_path) == NOW
        machine.set(-3 * DAY)
    assert machine.started(read_sighting(tmp_path)).is_believed()


class Sleep:
    """Lets the time of a machine pass where there is a sleep."""

    def __init__(self, machine: Machine) -> None:
        self.slept: list[float] = []
        self._machine = machine

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._machine.run(seconds)
        if len(self.slept) > 3:
            await asyncio.Event().wait()


def test_readings_are_kept_every_hour_and_at_the_end(
    machine: Machine, tmp_path: Path, runner: asyncio.Runner
) -> None:
    """Soon after the start, then every hour, and when the daemon ends."""
    sleep = Sleep(machine)

    async def scenario() -> None:
        task = asyncio.create_task(ClockKeeper(machine.started(None), tmp_path).run(sleep))
        await until(lambda: len(sleep.slept) == 4)
        assert read_sighting(tmp_path) == NOW + 1 + 2 * HOUR
        assert sleep.slept == [1, HOUR, HOUR, HOUR]
        task.cancel()
        await asyncio.wait([task])

    runner.run(scenario())
    assert read_sighting(tmp_path) == NOW + 1 + 3 * HOUR


def test_a_disk_that_fails_is_told_once_and_hinders_nothing(
    machine: Machine, tmp_path: Path, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the file; when the disk works again the reading is kept."""
    folder = tmp_path / "state"
    keeper = ClockKeeper(machine.started(None), folder)
    for _ in range(3):
        runner.run(keeper.keep())
    (warning,) = warnings(caplog)
    assert str(folder / "clock") in warning
    folder.mkdir()
    runner.run(keeper.keep())
    assert read_sighting(folder) == NOW
    assert len(warnings(caplog)) == 1


def test_a_memory_store_has_no_reading_of_an_earlier_run(runner: asyncio.Runner) -> None:
    """Its tickets are of this run, and nothing is kept."""
    keeper = open_clock()
    runner.run(keeper.keep())
    assert keeper.clock.is_believed()


def test_a_database_without_a_reading_is_of_unknown_age(tmp_path: Path) -> None:
    """Nothing in it has expired for an hour, unless its files tell when they were last written."""
    assert open_clock(tmp_path, is_new=False).clock.removal_time() < HOUR
    assert open_clock(tmp_path, is_new=True).clock.is_believed()
    for name in ("pykcm.db", "pykcm.db-wal"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    assert not open_clock(tmp_path, is_new=False).clock.is_believed()
    (tmp_path / "pykcm.db-wal").touch()
    assert open_clock(tmp_path, is_new=False).clock.is_believed()


@pytest.mark.parametrize(
    "content", [b"", b"x\n", b"-5\n", b"1800000000", b"9" * 13 + b"\n", b"1800000000\nmore", b"1e9\n"]
)
def test_a_file_that_is_no_reading_is_none(tmp_path: Path, content: bytes) -> None:
    """What cannot be understood is as good as missing."""
    (tmp_path / "clock").write_bytes(content)
    assert read_sighting(tmp_path) is None
    assert not open_clock(tmp_path, is_new=False).clock.is_believed()


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("5\n")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [_link, os.mkfifo, Path.mkdir], ids=["link", "pipe", "folder"])
def test_what_is_no_file_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Nothing but a plain file is, and nothing is waited for."""
    make(tmp_path / "clock")
    assert read_sighting(tmp_path) is None


def test_a_reading_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    """A file for the daemon alone, also over what an interrupted write has left."""
    (tmp_path / "clock.new").symlink_to("elsewhere")
    write_sighting(tmp_path, NOW + 0.9)
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]
    assert (tmp_path / "clock").stat().st_mode & 0o077 == 0
    assert read_sighting(tmp_path) == NOW


# What it decides

SOON = ticket(ends=NOW + DAY).blob
PAST = ticket(ends=NOW - 10).blob


def test_the_reaper_and_the_clock(runner: asyncio.Runner, store: Store, machine: Machine) -> None:
    """In doubt, what is valid by the time before stays, and what had expired goes; after an hour both do."""
    server = Server(runner, store, clock=machine.wall, steady=machine.steady)
    server.ask_as(1000).replace(b"1000:valid", 0, ALICE, [SOON])
    server.ask_as(1000).replace(b"1000:past", 0, ALICE, [PAST])
    reaper = Reaper(server.engine, 0, server.checked_clock.removal_time)
    machine.set(3 * DAY)
    assert runner.run(reaper.reap()) == 1
    assert listed(server.ask_as(1000)) == [b"1000:valid"]
    machine.run(HOUR)
    assert runner.run(reaper.reap()) == 1
    assert listed(server.ask_as(1000)) == []


@pytest.mark.parametrize(
    "quotas", [Quotas(max_uid_ccaches=2), Quotas(max_ccaches=2), Quotas(max_uid_size=50_000)], ids=repr
)
def test_eviction_and_the_clock(
    runner: asyncio.Runner, store: Store, machine: Machine, quotas: Quotas
) -> None:
    """A quota takes no ccache for expired that is valid by the time before; in doubt it refuses instead."""
    server = Server(runner, store, quotas=quotas, clock=machine.wall, steady=machine.steady)
    alice = server.ask_as(1000)
    half = ticket(ends=NOW + DAY, size=20_000).blob
    for name in (b"1000:a", b"1000:b"):
        alice.replace(name, 0, ALICE, [half])
    machine.set(3 * DAY)
    with refused(errno.EDQUOT):
        alice.replace(b"1000:c", 0, ALICE, [half])
    assert listed(alice) == [b"1000:a", b"1000:b"]
    machine.run(HOUR)
    alice.replace(b"1000:c", 0, ALICE, [half])
    assert listed(alice) == [b"1000:b", b"1000:c"]
