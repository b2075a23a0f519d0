"""Nothing copies the daemon's memory: no core dump, and no other process of its user."""

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
    """Whether Python, doing this first and then crashing, leaves a core, where any size is allowed."""
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


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    """A process that has forbidden dumps leaves no core, however large a one may be."""
    assert not crash(tmp_path, first="from pykcm.processes import forbid_dumps; forbid_dumps()")


def test_a_crash_would_leave_one(tmp_path: Path) -> None:
    """Otherwise it does: or the test above would prove nothing."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    if pattern.startswith("|") or "/" in pattern or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("a core would not be left in the working directory")
    assert crash(tmp_path, first="pass")


@pytest.mark.parametrize("limited", [False, True], ids=["kernel", "limit"])
def test_each_by_itself(limited: bool) -> None:
    """The process is not dumpable, and the limit on a core's size is 0, for good."""

    def check() -> None:
        forbid_dumps()
        if limited:
            assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        else:
            assert ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0

    in_child(check)


def test_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses, that is an error and not silence."""
    monkeypatch.setattr(processes, "_prctl", lambda *_: -1)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(DumpsError, match="PR_SET_DUMPABLE"):
        forbid_dumps()


def test_a_python_without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is with a Python that has no way to ask the kernel."""
    monkeypatch.setitem(sys.modules, "_ctypes", None)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(DumpsError, match="core dumps cannot be forbidden"):
        forbid_dumps()


def test_the_daemon_forbids_them_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon forbids dumps before it reads anything, and ends with status 1 where that fails."""

    def refuse() -> None:
        raise DumpsError("refused")

    monkeypatch.setattr(daemon, "forbid_dumps", refuse)
    monkeypatch.setattr(daemon, "load_config", lambda *_: pytest.fail("it went on"))

    def start() -> None:
        assert daemon.main([]) == daemon.EXIT_UNUSABLE

    in_child(start)
