"""Lets calls of a running process on the files of one folder fail or wait.

`faults.c` is preloaded into the process. The process and the test share a file that names the calls.
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
    """The calls that can fail or wait."""

    READ = 0
    WRITE = 1
    SYNC = 2
    TRUNCATE = 3
    OPEN = 4
    UNLINK = 5


class File(IntEnum):
    """The files whose calls can fail."""

    ANY = 0
    WAL = 1
    DATABASE = 2
    FOLDER = 3


def compile_faults(folder: Path) -> Path:
    """Compile the library into `folder`; without a compiler, skip the test."""
    library = folder / "faults.so"
    if not library.exists():
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler")
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
    return library


class Faults:
    """The faults of one folder; `environment` is that of the process."""

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
        """Let these calls fail with an errno, after `skip` that succeed: all of them, or only `times`."""
        count = -1 if times is None else times
        _FAILURE.pack_into(self._shared, call * _FAULT.size, code, file, skip, count, 0)

    def kill(self, call: Call, file: File = File.ANY, *, skip: int = 0) -> None:
        """Kill the process at the begin of such a call, after `skip` that succeed."""
        self.fail(call, -signal.SIGKILL, file, skip=skip, times=1)

    def fail_all(self, code: int) -> None:
        """Let all changes of the disk fail with an errno; reads succeed."""
        for call in (Call.WRITE, Call.SYNC, Call.TRUNCATE, Call.UNLINK):
            self.fail(call, code)

    def hits(self, call: Call) -> int:
        """The number of these calls that have failed since `fail` or `kill`."""
        count: int = _FAULT.unpack_from(self._shared, call * _FAULT.size)[4]
        return count

    def slow_down(self, call: Call, seconds: float) -> None:
        """Delay each such call on any file; 0 ends the delay."""
        self._set_delay(call, int(seconds * 1_000_000))

    def hold(self, call: Call) -> None:
        """Let each such call wait, until `let_one_go` or `let_go`."""
        self._set_delay(call, -1)

    def let_one_go(self, call: Call) -> None:
        """Let the only waiting call continue; returns when it does."""
        passes = (call + 1) * _FAULT.size - _NUMBER.size
        _NUMBER.pack_into(self._shared, passes, 1)
        wait_until(lambda: _NUMBER.unpack_from(self._shared, passes) == (0,))

    def let_go(self, call: Call) -> None:
        """Let all waiting and later calls continue."""
        _NUMBER.pack_into(self._shared, call * _FAULT.size + _FAILURE.size, 0)

    def delayed(self, call: Call) -> tuple[int, int]:
        """The numbers of calls delayed since `slow_down` or `hold`, and of those that still wait."""
        _, calls, waiting, _ = _DELAY.unpack_from(self._shared, call * _FAULT.size + _FAILURE.size)
        return calls, waiting

    def _set_delay(self, call: Call, delay: int) -> None:
        _DELAY.pack_into(self._shared, call * _FAULT.size + _FAILURE.size, delay, 0, 0, 0)

    def mend(self) -> None:
        """Let no call fail any more."""
        for call in Call:
            _FAILURE.pack_into(self._shared, call * _FAULT.size, 0, 0, 0, 0, 0)

    def close(self) -> None:
        self._shared.close()
