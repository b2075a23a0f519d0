"""Makes the calls of a process on files below one folder fail, while it runs and as a test says.

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

_SOURCE = Path(__file__).with_suffix(".c")
_FAULT = struct.Struct("=5i")


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
        _FAULT.pack_into(self._shared, call * _FAULT.size, code, file, skip, count, 0)

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

    def mend(self) -> None:
        """Let all go well again."""
        self._shared[:] = bytes(len(self._shared))

    def close(self) -> None:
        self._shared.close()
