"""SIGINT (Ctrl+C) while modules are imported, which takes most of a start.

Python's handler would show a traceback. This module imports nothing, and is imported first.
"""

# The module `signal` imports others.
from _signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal


def end_by_interrupts() -> None:
    """Let SIGINT end this process at once, until the program handles it.

    An ignored signal stays ignored: nohup and shells without job control start programs like this.
    """
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)


class Interruptible:
    """A context manager that lets SIGINT raise KeyboardInterrupt, so that a command cleans up.

    It changes nothing where end_by_interrupts() was not called.
    """

    def __enter__(self) -> None:
        self._before = getsignal(SIGINT)
        if self._before == SIG_DFL:
            signal(SIGINT, default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._before == SIG_DFL:
            signal(SIGINT, SIG_DFL)
