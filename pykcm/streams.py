"""Standard input, output and error: any of them may be closed, full, or a pipe whose reader has gone.

A program calls open_standard_streams() first and end_output() last. Then a failure of stdout ends it with an
error, and one of stderr changes nothing, whether or not Python buffers (PYTHONUNBUFFERED).
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

_STDOUT, _STDERR = 1, 2


class _Output(io.FileIO):
    """stdout. The first error is raised and kept, because a caller may ignore it, as argparse does.

    Later output is dropped: Python, which writes out its buffers at the end, would exit with status 120.
    """

    def __init__(self) -> None:
        super().__init__(_STDOUT, "w", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:
            return memoryview(data).nbytes
        try:
            # None: another process that has this pipe or terminal made it non-blocking.
            while (written := super().write(data)) is None:
                select.select([], [_STDOUT], [])
        except OSError as error:
            self.error = error
            raise
        return written


class _Messages(io.FileIO):
    """stderr. A message that cannot be written is dropped, as nobody can be told of that."""

    def __init__(self) -> None:
        super().__init__(_STDERR, "w", closefd=False)

    def write(self, data: Any) -> int:
        with suppress(OSError):
            written: int | None = super().write(data)
            if written is not None:
                return written
        return memoryview(data).nbytes


def open_standard_streams() -> None:
    """Give each standard stream a file where it is closed, and sys.stdout and sys.stderr one of the above."""
    occupy_standard_descriptors()
    # Streams of others, such as a test's, stay.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _opened(_Output(), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _opened(_Messages(), sys.stderr)
        sys.stderr.reconfigure(line_buffering=True)


def occupy_standard_descriptors() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    Otherwise the next file that is opened, a database for one, would get the output meant for the stream.
    """
    # For reading: output to a closed stdout has to fail.
    while (fd := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= _STDERR:
        pass
    os.close(fd)


def _opened(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=getattr(before, "errors", None) or "backslashreplace",
        line_buffering=raw.isatty(),
    )


def output_error() -> OSError | None:
    """The error that stdout has had, if any."""
    # Where click has seen an EPIPE, it has put something around the stream.
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _Output) else None


def end_output(program: str) -> bool:
    """Write out what stdout still holds; returns whether all output was written, after saying why not."""
    with suppress(OSError):
        sys.stdout.flush()
    error = output_error()
    if error is None:
        return True
    # A reader that has gone has seen enough.
    if error.errno != errno.EPIPE:
        sys.stderr.write(f"{program}: cannot write to stdout: {error.strerror}\n")
    return False
