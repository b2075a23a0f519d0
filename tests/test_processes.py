"""Processes: core dumps are forbidden."""

import _thread
import ctypes
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pykcm import daemon, processes
from pykcm.processes import DumpsError, forbid_dumps
from tests.processes import in_child

PR_GET_DUMPABLE = 3

ROOT = Path(__file__).parents[1]


def crash(folder: Path, *, first: str) -> bool:
    """Run Python code and then crash, with the largest allowed core size; returns whether there is a core."""
    program = f"{first}\nimport os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    process = subprocess.Popen(
        ["sh", "-c", 'ulimit -S -c "$(ulimit -H -c)" && exec "$@"', "sh", sys.executable, "-c", program],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGSEGV
    return os.WCOREDUMP(status) or bool(list(folder.iterdir()))


def test_no_core_after_forbid_dumps(tmp_path: Path) -> None:
    """A process that has forbidden dumps leaves no core, whatever its size limit is."""
    assert not crash(tmp_path, first="from pykcm.processes import forbid_dumps; forbid_dumps()")


def test_core_without_forbid_dumps(tmp_path: Path) -> None:
    """A process that has not forbidden dumps leaves a core, so that the test above can fail."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    if pattern.startswith("|") or "/" in pattern or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("a core would not be left in the working directory")
    assert crash(tmp_path, first="pass")


@pytest.mark.parametrize("limited", [False, True], ids=["kernel", "limit"])
def test_process_is_not_dumpable_and_core_size_is_0(limited: bool) -> None:
    """The process is not dumpable, and its core size limit is 0."""

    def check() -> None:
        forbid_dumps()
        if limited:
            assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        else:
            assert ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0

    in_child(check)


def test_refusal_of_the_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel refuses, DumpsError is raised."""
    monkeypatch.setattr(processes, "_prctl", lambda *_: -1)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(DumpsError, match="PR_SET_DUMPABLE"):
        forbid_dumps()


def test_python_without_ctypes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Python has no ctypes, DumpsError is raised."""
    monkeypatch.setitem(sys.modules, "_ctypes", None)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(DumpsError, match="core dumps cannot be forbidden"):
        forbid_dumps()


def test_daemon_forbids_dumps_before_reading_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon forbids dumps before it reads its configuration; if that fails, the exit status is 1."""

    def refuse() -> None:
        raise DumpsError("refused")

    monkeypatch.setattr(daemon, "forbid_dumps", refuse)
    monkeypatch.setattr(daemon, "load_config", lambda *_: pytest.fail("it went on"))

    def start() -> None:
        assert daemon.main([]) == daemon.EXIT_UNUSABLE

    in_child(start)


def test_child_is_forked_when_ended_threads_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that Python no longer knows, but that may hold a lock of a library, delays the fork."""
    ends = _thread.allocate_lock()
    ends.acquire()
    _thread.start_new_thread(ends.acquire, ())
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            ends.release()

    monkeypatch.setattr("tests.processes.time.sleep", wait)
    in_child(lambda: None)
    assert waits
