"""Standard input, output and error, which may be closed, full, or a pipe without a reader.

A program calls open_standard_streams() first and end_output() last. Then a failure of stdout ends it with an
error, and a failure of stderr is ignored. This does not depend on PYTHONUNBUFFERED.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class _Stream(io.BufferedWriter):
    """A standard stream.

    Errors are handled here and not below the buffer: a signal handler can end a method at any line with an
    exception, and then BufferedWriter alone knows whether the bytes were written.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(io.FileIO(fd, "w", closefd=False))
        self.error: OSError | None = None


class _Output(_Stream):
    """stdout. The first error is raised and kept, because a caller may ignore it, as argparse does.

    Later output is discarded: otherwise Python, which flushes its buffers at the end, exits with status 120.
    """

    def write(self, data: Any) -> int:
        remaining = memoryview(data)
        size = remaining.nbytes
        while self.error is None:
            try:
                super().write(remaining)
                break
            except BlockingIOError as full:
                remaining = remaining[full.characters_written :]
                self._wait()
            except OSError as error:
                self.error = error
                raise
        return size

    def flush(self) -> None:
        while self.error is None:
            try:
                super().flush()
                break
            except BlockingIOError:
                self._wait()
            except OSError as error:
                self.error = error
                raise

    def _wait(self) -> None:
        # Another process with this pipe or terminal made it nonblocking.
        select.select([], [self], [])


class _Messages(_Stream):
    """stderr. A message that cannot be written is discarded."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def open_standard_streams() -> None:
    """Open closed standard streams, and replace sys.stdout and sys.stderr by streams that handle failures."""
    occupy_standard_descriptors()
    if sys.stdin is None:
        # It was closed. Programs may read it, and then find its end.
        sys.stdin = open(_STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    # A stream that was already replaced, for example by a test, stays.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _opened(_Output(_STDOUT), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _opened(_Messages(_STDERR), sys.stderr)
        sys.stderr.reconfigure(line_buffering=True)


def occupy_standard_descriptors() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    Otherwise output for the stream would go into the next file that is opened, for example the database.
    """
    # For reading, because output to a closed stdout must fail.
    while (fd := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= _STDERR:
        pass
    os.close(fd)


def _opened(stream: _Stream, before: TextIO | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        stream,
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=getattr(before, "errors", None) or "backslashreplace",
        line_buffering=stream.isatty(),
    )


def output_error() -> OSError | None:
    """Return the first error of stdout, or None."""
    # After an EPIPE, click has wrapped the stream.
    stream = getattr(sys.stdout, "buffer", None)
    return stream.error if isinstance(stream, _Output) else None


def end_output(program: str) -> bool:
    """Flush stdout; returns whether all output was written, and writes a message to stderr otherwise."""
    with suppress(OSError):
        sys.stdout.flush()
    error = output_error()
    if error is None:
        return True
    # EPIPE is not an error: the reader has read as much as it wanted.
    if error.errno != errno.EPIPE:
        sys.stderr.write(
            f"{program}: stdout: {error.strerror}; the output is incomplete: repeat the command\n"
        )
    return False
