"""Processes of the tests: a clean environment, and functions that run in a child process."""

import os
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

_THREADS = "/proc/self/task"

# Those of pytest-xdist, which the module `threading` does not know.
_THREADS_AT_START = {*os.listdir(_THREADS)}  # noqa: PTH208

# In seconds; reached only on an overloaded machine.
_PATIENCE = 60.0


def clean_environment() -> None:
    """Remove the machine's settings from the environment of this process and of its children.

    A variable such as PYTHONUNBUFFERED changes Python's behaviour, and may hide a fault of the program. An
    ignored signal does not end a program. With a strict umask other users cannot read the files of a test.
    """
    os.umask(0o022)
    temporary = Path(tempfile.gettempdir())
    if not all(folder.stat().st_mode & stat.S_IXOTH for folder in (temporary, *temporary.parents)):
        # Programs that tests start as other users cannot enter it.
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ.pop(name, None)
        tempfile.tempdir = None
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]
    os.environ |= {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    time.tzset()
    # A shell starts background commands with ignored signals, as nohup does; children inherit this.
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, default)


def in_child(function: Callable[[], object]) -> None:
    """Run `function` in a forked child, which then ends without closing the returned object.

    An exception of the function fails the test.
    """
    _wait_for_ended_threads()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _left_open = function()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not continue as a second pytest
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, waited = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(waited) == 0, "the child failed"


def _wait_for_ended_threads() -> None:
    """Wait until threads that have been joined are gone from the process.

    A thread that Python has joined may still be in OpenSSL's destructor, and hold a lock. In the child of a
    fork nobody would release it.
    """
    deadline = time.monotonic() + _PATIENCE
    while ended := {*os.listdir(_THREADS)} - _THREADS_AT_START - _running_threads():  # noqa: PTH208
        assert time.monotonic() < deadline, f"threads {ended} do not end"
        time.sleep(0.001)


def _running_threads() -> set[str]:
    return {str(thread.native_id) for thread in threading.enumerate()}
