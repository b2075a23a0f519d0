"""Standard input, output and error: any of them may be closed, full, or a pipe whose reader has gone."""

import errno
import os
import sys
from contextlib import suppress
from typing import TextIO

_STDOUT, _STDERR = 1, 2


def occupy_standard_descriptors() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    Otherwise the next file that is opened, a database for one, would get the output meant for the stream.
    """
    # For reading: output to a closed stdout has to fail.
    while (fd := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= _STDERR:
        pass
    os.close(fd)


def open_standard_streams() -> None:
    """Give Python's streams a file where they were closed: output to stdout fails, to stderr it is lost."""
    occupy_standard_descriptors()
    if sys.stdout is None:
        sys.stdout = os.fdopen(_STDOUT, "w", closefd=False)
    if sys.stderr is None:
        with open(os.devnull, "w") as null:  # noqa: PTH123 - pathlib would cost the daemon's start
            os.dup2(null.fileno(), _STDERR)
        sys.stderr = os.fdopen(_STDERR, "w", closefd=False)


def end_output(program: str) -> bool:
    """Write out what stdout still holds; returns whether that worked, after it has told why not.

    Python itself would flush at its end, and exit with status 120 if that failed.
    """
    error = _end(sys.stdout)
    if error is not None and error.errno != errno.EPIPE:
        with suppress(OSError):
            sys.stderr.write(f"{program}: {error.strerror}\n")
    _end(sys.stderr)
    return error is None


def _end(stream: TextIO) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        return error
    return None
