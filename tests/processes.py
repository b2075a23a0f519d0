"""Other processes for the tests: children that end in a way that a test cannot."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable


def clean_environment() -> None:
    """Give this process, and so each one that it starts, an environment without this machine's own choices.

    A variable such as PYTHONUNBUFFERED changes how Python behaves, and may hide a fault of the program; a
    signal that is ignored ends no program.
    """
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]
    os.environ |= {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    time.tzset()
    # A shell ignores signals in what it starts in the background, and so does nohup; children inherit that.
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, default)


def in_child(function: Callable[[], object]) -> None:
    """Run `function` in a forked child that then ends at once: what it returns is not closed any more.

    What it raises fails the test.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _left_open = function()
            status = 0
        except BaseException:  # noqa: BLE001 - a child must never go on as a second pytest
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, waited = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(waited) == 0, "the child failed"
