"""Signals that end a program: SIGINT (Ctrl+C) while modules are imported, and all of them in a command.

Importing takes most of a start, and Python's handler would show a traceback. This module imports nothing, and
is imported first.
"""

# The module `signal` imports others.
from _signal import SIG_DFL, SIGHUP, SIGINT, SIGTERM, default_int_handler, getsignal, signal


def end_by_interrupts() -> None:
    """Let SIGINT end this process at once, until the program handles it.

    An ignored signal stays ignored: nohup and shells without job control start programs like this.
    """
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)


def exit_by_signal(number: int, _: object) -> None:
    """Handle a signal: raise SystemExit with the status that a shell reports for a process it has ended."""
    raise SystemExit(128 + number)


# The handlers outside of commands. A signal with another handler, or an ignored one, stays as it is.
_BEFORE = {SIGINT: SIG_DFL, SIGTERM: exit_by_signal, SIGHUP: exit_by_signal}


class Interruptible:
    """A context manager in which a signal ends a command by an exception, so that the command cleans up.

    SIGINT raises KeyboardInterrupt, and the others SystemExit. Later signals do nothing until the end of the
    context: they would end the cleanup. `raised` is the exception.
    """

    raised: BaseException | None = None

    def __enter__(self) -> "Interruptible":  # noqa: PYI034 - typing would be imported
        self.raised = None
        self._numbers = [number for number, handler in _BEFORE.items() if getsignal(number) == handler]
        for number in self._numbers:
            signal(number, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            signal(number, _BEFORE[number])

    def raise_again(self) -> None:
        """Raise the exception again if a signal has come, because foreign code may have caught it."""
        if self.raised is not None:
            raise self.raised

    def _end(self, number: int, _: object) -> None:
        for each in self._numbers:
            signal(each, _ignore)
        self.raised = KeyboardInterrupt() if number == SIGINT else SystemExit(128 + number)
        raise self.raised


# Unlike SIG_IGN, child processes do not inherit this.
def _ignore(_: int, __: object) -> None: ...


# Of the command that runs in this process.
command = Interruptible()
