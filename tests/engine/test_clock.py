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
from pykcm.store.clock_reading import read_clock_reading, write_clock_reading
from pykcm.store.interface import Store
from tests.builders import ALICE, Clock, refused, ticket
from tests.server.asking import Server
from tests.server.programs import listed
from tests.server.waiting import until

HOUR, DAY = 3600, 86400


# Of the year 2027.
NOW = 1_800_000_000


class Machine:
    """A clock that can be set, and one that nobody sets."""

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
def test_clock_that_moved_by_at_most_a_day_is_believed_at_start(
    machine: Machine, caplog: pytest.LogCaptureFixture, last: float | None
) -> None:
    """A clock is believed if nothing is stored yet, or the last reading is at most a day away."""
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
def test_clock_that_moved_by_days_is_in_doubt_for_an_hour(
    machine: Machine, last: float, moved: int | None, removal_time: float
) -> None:
    """For an hour the earlier of both times counts, then the clock's."""
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
def test_clock_that_is_set_while_the_daemon_runs_is_in_doubt(
    machine: Machine, caplog: pytest.LogCaptureFixture, days: int
) -> None:
    """The clock is compared with one that nobody sets, and the log has one line."""
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
    """Two steps of less than a day within an hour are compared with the time before both."""
    clock = machine.started(NOW)
    for _ in range(2):
        assert clock.is_believed()
        machine.set(20 * HOUR)
        machine.run(1)
    assert not clock.is_believed()
    assert clock.removal_time() == NOW + 2


def test_clock_that_is_set_right_is_believed_at_once(machine: Machine) -> None:
    """A clock that returns to the time before is believed."""
    clock = machine.started(NOW)
    machine.set(3 * DAY)
    assert not clock.is_believed()
    machine.run(600)
    machine.set(-3 * DAY)
    assert clock.is_believed()
    assert clock.removal_time() == NOW + 600


def test_second_move_starts_the_hour_again(machine: Machine) -> None:
    """The hour begins again when a clock in doubt moves by more than a day."""
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


def test_administrator_can_confirm_the_clock(machine: Machine) -> None:
    """A confirmed clock is believed at once, and later readings are compared with it."""
    clock = machine.started(NOW - 9 * DAY)
    clock.believe()
    assert clock.is_believed()
    assert clock.removal_time() == NOW
    machine.set(-9 * DAY)
    assert not clock.is_believed()


async def test_reading_of_a_doubted_clock_is_not_stored(machine: Machine, tmp_path: Path) -> None:
    """Short runs with a wrong clock store no reading, and a run with the right one is not in doubt."""
    await ClockKeeper(machine.started(None), tmp_path).keep()
    for _ in range(3):
        machine.set(3 * DAY)
        keeper = ClockKeeper(machine.started(read_clock_reading(tmp_path)), tmp_path)
        machine.run(HOUR / 2)
        await keeper.keep()
        assert not keeper.clock.is_believed()
        assert read_clock_reading(tmp_path) == NOW
        machine.set(-3 * DAY)
    assert machine.started(read_clock_reading(tmp_path)).is_believed()


class Sleep:
    """Each sleep lets the machine's time pass."""

    def __init__(self, machine: Machine) -> None:
        self.slept: list[float] = []
        self._machine = machine

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._machine.run(seconds)
        if len(self.slept) > 3:
            await asyncio.Event().wait()


async def test_readings_are_stored_every_hour_and_at_the_end(machine: Machine, tmp_path: Path) -> None:
    """A reading is stored soon after the start, every hour, and when the daemon ends."""
    sleep = Sleep(machine)
    task = asyncio.create_task(ClockKeeper(machine.started(None), tmp_path).run(sleep))
    await until(lambda: len(sleep.slept) == 4)
    assert read_clock_reading(tmp_path) == NOW + 1 + 2 * HOUR
    assert sleep.slept == [1, HOUR, HOUR, HOUR]
    task.cancel()
    await asyncio.wait([task])
    assert read_clock_reading(tmp_path) == NOW + 1 + 3 * HOUR


async def test_failing_disk_is_logged_once(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the file once; when the disk works again, the reading is stored."""
    folder = tmp_path / "state"
    keeper = ClockKeeper(machine.started(None), folder)
    for _ in range(3):
        await keeper.keep()
    (warning,) = warnings(caplog)
    assert str(folder / "clock") in warning
    folder.mkdir()
    await keeper.keep()
    assert read_clock_reading(folder) == NOW
    assert len(warnings(caplog)) == 1


async def test_clock_of_a_memory_store_is_believed() -> None:
    """Tickets in memory are of this run, and no reading is stored."""
    keeper = open_clock()
    await keeper.keep()
    assert keeper.clock.is_believed()


def test_database_without_a_reading_uses_its_last_change(tmp_path: Path) -> None:
    """Without a reading the last change of the database's files counts; without that nothing has expired."""
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
def test_invalid_reading_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    """A file with other contents than a reading counts as missing."""
    (tmp_path / "clock").write_bytes(content)
    assert read_clock_reading(tmp_path) is None
    assert not open_clock(tmp_path, is_new=False).clock.is_believed()


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("5\n")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [_link, os.mkfifo, Path.mkdir], ids=["link", "pipe", "folder"])
def test_only_a_plain_file_is_read_as_reading(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A link, a pipe and a folder are not read, and not waited for."""
    make(tmp_path / "clock")
    assert read_clock_reading(tmp_path) is None


def test_reading_is_stored_in_a_private_file(tmp_path: Path) -> None:
    """Only the daemon can read the file, which also replaces the rest of an interrupted write."""
    (tmp_path / "clock.new").symlink_to("elsewhere")
    write_clock_reading(tmp_path, NOW + 0.9)
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]
    assert (tmp_path / "clock").stat().st_mode & 0o077 == 0
    assert read_clock_reading(tmp_path) == NOW


SOON = ticket(ends=NOW + DAY).blob
PAST = ticket(ends=NOW - 10).blob


def test_reaper_keeps_valid_ccaches_while_the_clock_is_in_doubt(
    runner: asyncio.Runner, store: Store, machine: Machine
) -> None:
    """During a doubt the reaper keeps ccaches that are valid by the time before."""
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
def test_eviction_keeps_valid_ccaches_while_the_clock_is_in_doubt(
    runner: asyncio.Runner, store: Store, machine: Machine, quotas: Quotas
) -> None:
    """During a doubt a quota refuses instead of evicting a ccache that is valid by the time before."""
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
