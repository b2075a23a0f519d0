"""The machine's clock, and whether it is believed when expired ccaches are removed.

By a clock that is wrong by days, valid tickets look expired. The daemon compares the clock with its
last reading, perhaps of an earlier run. A clock that has moved by more than a day is in doubt until the
daemon has run for an hour by it. A machine that was off for days looks the same.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from pykcm.ccaches.collection import Clock
from pykcm.store.clock_reading import CLOCK, last_written, read_clock_reading, write_clock_reading
from pykcm.store.disk import DATABASE, WAL

log = logging.getLogger(__name__)

# In seconds: the clock may move by as much between two readings.
_MOST_MOVED = 86400

# In seconds: the daemon runs so long before it believes a clock that moved.
_DOUBTED_FOR = 3600

# In seconds: how often a reading is stored. Later readings are compared with one that is no older.
_KEPT_EVERY = 3600

# In seconds: the client whose request started the daemon is served first.
_WAIT_AT_START = 1.0

# In seconds: a clock that is adjusted moves by less between two readings.
_SMALLEST_STEP = 2.0

# The reading of an earlier run, if it is not known: every clock has moved since.
UNKNOWN = 0.0


class Doubt(NamedTuple):
    """Why the clock is in doubt: the seconds by which it moved, and the seconds until it is believed.

    `moved` is negative for a clock that was set back, and None if the last reading is not known.
    """

    moved: int | None
    left: int


class _Reading(msgspec.Struct, frozen=True):
    """The clock (seconds since the epoch) and a clock that nobody sets (seconds), read at the same time."""

    wall: float
    steady: float

    def moved_since(self, other: "_Reading") -> float:
        """By how many seconds the clock was set forward since the other reading."""
        return self.wall - other.at(self.steady)

    def at(self, steady: float) -> float:
        """The clock's time at another moment, if nobody has set it in between."""
        return self.wall + steady - self.steady


class ClockSteps:
    """Notices that the clock was set, or that the machine has slept. `steady` is a clock that nobody sets."""

    def __init__(self, wall: Clock = time.time, steady: Clock = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._last = _Reading(wall(), steady())

    def is_set(self) -> bool:
        """Whether the clock was set since the last call, or since the last `accept`."""
        now = _Reading(self._wall(), self._steady())
        if abs(now.moved_since(self._last)) >= _SMALLEST_STEP:
            return True
        self._last = now
        return False

    def accept(self) -> None:
        """Take the clock as it is now."""
        self._last = _Reading(self._wall(), self._steady())


class CheckedClock:
    """Compares the clock with its last reading each time.

    `last`: the last reading of an earlier run, in seconds since the epoch, or UNKNOWN; None: the store is
    empty. `steady` is a clock that nobody sets.
    """

    def __init__(
        self, last: float | None = None, *, wall: Clock = time.time, steady: Clock = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        now = self._read()
        self._is_last_known = last != UNKNOWN
        self._last = now if last is None else _Reading(last, now.steady)
        # The first reading after the clock has moved; None: the clock is believed.
        self._doubted: _Reading | None = None
        self._check()
        if self._doubted is None:
            self._last = now

    def removal_time(self) -> float:
        """Seconds since the epoch: ccaches that expired by then may be removed.

        While the clock is in doubt, this is the earlier of two times: the clock's, and the last reading plus
        the time since. A ccache that has expired by both has expired whichever is right.
        """
        return self._check()

    def is_believed(self) -> bool:
        self._check()
        return self._doubted is None

    def doubt(self) -> Doubt | None:
        """Why the clock is in doubt; None: it is believed."""
        self._check()
        if self._doubted is None:
            return None
        moved = int(self._doubted.moved_since(self._last)) if self._is_last_known else None
        return Doubt(moved, max(1, int(self._doubted.steady + _DOUBTED_FOR - self._steady())))

    def believe(self) -> None:
        """Believe the clock from now on, because an administrator says that it is right."""
        self._believe(self._read())

    def _read(self) -> _Reading:
        return _Reading(self._wall(), self._steady())

    def _check(self) -> float:
        now = self._read()
        moved = now.moved_since(self._last)
        if abs(moved) <= _MOST_MOVED:
            if self._doubted is not None:
                log.info("the clock was set right again, and is believed")
                self._believe(now)
            elif now.steady - self._last.steady >= _KEPT_EVERY:
                self._last = now
            return now.wall
        if self._doubted is None:
            self._doubted = now
            self._log(now, moved)
        elif abs(now.moved_since(self._doubted)) > _MOST_MOVED:
            self._doubted = now
        elif now.steady - self._doubted.steady >= _DOUBTED_FOR:
            log.info("the clock is believed now: it has run on for an hour")
            self._believe(now)
            return now.wall
        return min(now.wall, self._last.at(now.steady))

    def _believe(self, now: _Reading) -> None:
        self._doubted = None
        self._is_last_known = True
        self._last = now

    def _log(self, now: _Reading, moved: float) -> None:
        if self._is_last_known:
            log.warning(
                "the clock moved %s by %.1f days, to %s%s: for an hour no ccache is removed that had not "
                "expired before. Set the clock if it is wrong",
                "forward" if moved > 0 else "back",
                abs(moved) / 86400,
                _format(now.wall),
                ", or the machine was off for so long" if moved > 0 else "",
            )
        else:
            log.info(
                "the clock says %s, and when it was last read is not known: for an hour no ccache is removed "
                "as expired",
                _format(now.wall),
            )


def _format(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def open_clock(folder: Path | None = None, *, is_new: bool = True) -> "ClockKeeper":
    """Return the clock, compared with its reading in the state folder; `is_new`: the store is empty.

    A database of an older version has no such reading. Then the time of its last change is used.
    """
    last = None
    if folder is not None and not is_new:
        last = read_clock_reading(folder) or last_written(folder / DATABASE, folder / WAL) or UNKNOWN
    return ClockKeeper(CheckedClock(last), folder)


class ClockKeeper:
    """Stores readings of a believed clock in the state folder, for the next run.

    `folder`: None for a store in memory. A failing disk is logged once, and has no other effect.
    """

    def __init__(self, clock: CheckedClock, folder: Path | None = None) -> None:
        self.clock = clock
        self._folder = folder
        self._is_failing = False
        self._writing = threading.Lock()

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> NoReturn:
        """Store a reading soon after the start, then every hour, and a last one when cancelled."""
        pause = _WAIT_AT_START
        try:
            while True:
                await sleep(pause)
                await self.keep()
                pause = _KEPT_EVERY
        finally:
            await self.keep()

    async def keep(self) -> None:
        """Store the clock's reading durably, unless the clock is in doubt."""
        if not self.clock.is_believed() or self._folder is None:
            return
        try:
            # In a thread: a disk may be slow.
            await asyncio.to_thread(self._write, self._folder, self.clock.removal_time())
        except OSError as error:
            if not self._is_failing:
                log.warning(
                    "%s: not written: %s; the next start cannot check the clock by it",
                    *(self._folder / CLOCK, error.strerror),
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def _write(self, folder: Path, seconds: float) -> None:
        # The thread of a cancelled call goes on.
        with self._writing:
            write_clock_reading(folder, seconds)
