"""Makes the calls of a process on files below one folder fail or wait, while it runs and as a test says.

The process has `faults.c` preloaded, and shares with the test a file that says which calls fail.
"""

import mmap
import shutil
import signal
import struct
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from tests.e2e.waiting import wait_until

_SOURCE = Path(__file__).with_suffix(".c")
_FAULT = struct.Struct("=9i")
_FAILURE = struct.Struct("=5i")
_DELAY = struct.Struct("=4i")  # behind it
_NUMBER = struct.Struct("=i")


class Call(IntEnum):
    """What can fail."""

    READ = 0
    WRITE = 1
    SYNC = 2
    TRUNCATE = 3
    OPEN = 4
    UNLINK = 5


class File(IntEnum):
    """On which file."""

    ANY = 0
    JOURNAL = 1
    DATABASE = 2
    FOLDER = 3


def compile_faults(folder: Path) -> Path:
    """The library, made in `folder`; the test is skipped where there is no compiler."""
    library = folder / "faults.so"
    if not library.exists():
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler")
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
    return library


class Faults:
    """The faults of one folder; `environment` is for the process."""

    def __init__(self, library: Path, folder: Path, control: Path) -> None:
        control.write_bytes(bytes(len(Call) * _FAULT.size))
        control.chmod(0o666)
        with control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "DISK_FAULTS": str(control),
            "DISK_FAULTS_FOLDER": str(folder.resolve()),
        }

    def fail(
        self, call: Call, code: int, file: File = File.ANY, *, skip: int = 0, times: int | None = None
    ) -> None:
        """Let such calls fail with this errno, after `skip` that go well; all of them, or so many `times`."""
        count = -1 if times is None else times
        _FAILURE.pack_into(self._shared, call * _FAULT.size, code, file, skip, count, 0)

    def kill(self, call: Call, file: File = File.ANY, *, skip: int = 0) -> None:
        """Let the process be killed when it comes to such a call, after `skip` that go well."""
        self.fail(call, -signal.SIGKILL, file, skip=skip, times=1)

    def fail_all(self, code: int) -> None:
        """Let nothing be changed on the disk any more; it can be read."""
        for call in (Call.WRITE, Call.SYNC, Call.TRUNCATE, Call.UNLINK):
            self.fail(call, code)

    def hits(self, call: Call) -> int:
        """How many such calls have failed since this was asked for."""
        count: int = _FAULT.unpack_from(self._shared, call * _FAULT.size)[4]
        return count

    def slow_down(self, call: Call, seconds: float) -> None:
        """Let each such call, on whatever file, take so much longer; nothing does at 0."""
        self._set_delay(call, int(seconds * 1_000_000))

    def hold(self, call: Call) -> None:
        """Let each such call wait until it is let go on."""
        self._set_delay(call, -1)

    def let_one_go(self, call: Call) -> None:
        """Let the one such call that waits go on; returns when it does."""
        passes = (call + 1) * _FAULT.size - _NUMBER.size
        _NUMBER.pack_into(self._shared, passes, 1)
        wait_until(lambda: _NUMBER.unpack_from(self._shared, passes) == (0,))

    def let_go(self, call: Call) -> None:
        """Let none wait any longer."""
        _NUMBER.pack_into(self._shared, call * _FAULT.size + _FAILURE.size, 0)

    def delayed(self, call: Call) -> tuple[int, int]:
        """How many such calls were delayed since that was asked for, and how many of them still wait."""
        _, calls, waiting, _ = _DELAY.unpack_from(self._shared, call * _FAULT.size + _FAILURE.size)
        return calls, waiting

    def _set_delay(self, call: Call, delay: int) -> None:
        _DELAY.pack_into(self._shared, call * _FAULT.size + _FAILURE.size, delay, 0, 0, 0)

    def mend(self) -> None:
        """Let nothing fail any more."""
        for call in Call:
            _FAILURE.pack_into(self._shared, call * _FAULT.size, 0, 0, 0, 0, 0)

    def close(self) -> None:
        self._shared.close()
