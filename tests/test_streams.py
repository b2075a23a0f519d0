"""Standard streams that are closed, full or without a reader, with and without buffers of Python."""

import fcntl
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYKCMD = [sys.executable, "-m", "pykcm"]
PYKCM_AUDIT = [sys.executable, "-m", "pykcm.audit"]
PYKCMCTL = [sys.executable, "-m", "pykcm.cli.main", "--socket", "/nonexistent/control.sock"]

PRINTING = [
    [*PYKCMD, "--help"],
    [*PYKCMD, "--version"],
    [*PYKCMCTL, "--help"],
    [*PYKCMCTL, "list", "-h"],
    [*PYKCMCTL, "--version"],
    [*PYKCMCTL, "completion", "bash"],
]

# Commands that print only messages, and their exit statuses.
PRINTING_MESSAGES = [
    ([*PYKCMD, "--wrong"], 2),
    ([*PYKCMD, "--config", "/nonexistent/pykcm.toml"], 1),
    (PYKCM_AUDIT, 1),
    (PYKCMCTL, 2),
    ([*PYKCMCTL, "--wrong"], 2),
    ([*PYKCMCTL, "list"], 3),
    ([*PYKCMCTL, "rekey", "--new-key", "/dev/null"], 1),
]

CLOSED, FULL, NO_READER = "closed", "full", "no reader"
ERRORS = {CLOSED: "Bad file descriptor", FULL: "No space left on device", NO_READER: None}

buffers = pytest.mark.parametrize(
    "variables", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"]
)


@contextmanager
def opened(kind: str) -> Iterator[int]:
    """Open a descriptor to which nothing can be written; for CLOSED, the shell closes it."""
    if kind == NO_READER:
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full" if kind == FULL else os.devnull, os.O_WRONLY)
    try:
        yield writing
    finally:
        os.close(writing)


def run(
    command: list[str], variables: dict[str, str], *, stdout: str | None = None, stderr: str | None = None
) -> tuple[int, str]:
    """Run a command with such streams; returns its exit status and its messages."""
    closing = f"{'>&-' if stdout == CLOSED else ''} {'2>&-' if stderr == CLOSED else ''}"
    with opened(stdout or CLOSED) as out, opened(stderr or CLOSED) as err:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE if stderr is None else err,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables},
            cwd=ROOT,
        )
    return done.returncode, done.stderr or ""


@buffers
@pytest.mark.parametrize("kind", [CLOSED, FULL, NO_READER])
@pytest.mark.parametrize("command", PRINTING, ids=lambda command: " ".join(command[2:]))
def test_failing_stdout_fails_the_command(command: list[str], kind: str, variables: dict[str, str]) -> None:
    """The exit status is 1, and a message gives the reason.

    If the reader has closed the pipe, there is no message, and for commands of pykcmctl that was no failure.
    """
    program = "pykcmd" if command[2] == "pykcm" else "pykcmctl"
    error = ERRORS[kind]
    status = 0 if kind == NO_READER and program == "pykcmctl" else 1
    message = (
        "" if error is None else f"{program}: stdout: {error}; the output is incomplete: repeat the command\n"
    )
    assert run(command, variables, stdout=kind) == (status, message)
    assert run(command, variables, stdout=kind, stderr=kind) == (status, "")


@buffers
@pytest.mark.parametrize("kind", [CLOSED, FULL, NO_READER])
@pytest.mark.parametrize(
    ("command", "status"),
    PRINTING_MESSAGES,
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_failing_stderr_does_not_change_the_exit_status(
    command: list[str], status: int, kind: str, variables: dict[str, str]
) -> None:
    """A failing stderr does not change the exit status, nor does a failing stdout without output."""
    assert run(command, variables, stderr=kind)[0] == status
    assert run(command, variables, stdout=kind)[0] == status
    assert run(command, variables, stdout=kind, stderr=kind)[0] == status


_LONG_OUTPUT = """
import sys
from pykcm.streams import end_output, open_standard_streams
open_standard_streams()
sys.stdout.write("x" * 1_000_000)
sys.exit(not end_output("test"))
"""


def test_nonblocking_pipe_gets_all_output() -> None:
    """A pipe that another process made nonblocking gets all output, as fast as its reader reads."""
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with subprocess.Popen(
        [sys.executable, "-c", _LONG_OUTPUT], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            # While the pipe is full, the program has more to write.
            while fill_level(pipe.fileno()) < room and process.poll() is None:
                pass
            taken = pipe.read()
        assert process.stderr is not None
        message = process.stderr.read()
    assert (process.returncode, message, len(taken)) == (0, b"", 1_000_000)


# The kernel sends SIGINT as soon as the pipe has data: while Python writes.
_INTERRUPTED = """
import fcntl, os, signal, sys
from pykcm.streams import end_output, open_standard_streams
reading, writing = os.pipe()
fcntl.fcntl(reading, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGINT)
fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
os.dup2(writing, int(sys.argv[1]))
os.close(writing)
open_standard_streams()
stream = sys.stdout if sys.argv[1] == "1" else sys.stderr
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    stream.write("a line\\n")
    stream.flush()
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stream.write("the end\\n")
    stream.flush()
end_output("test")
os.close(int(sys.argv[1]))
with open(reading) as pipe, open(sys.argv[2], "w") as found:
    found.write(pipe.read())
"""


@pytest.mark.parametrize("fd", ["1", "2"])
def test_signal_while_a_line_is_written_does_not_repeat_it(tmp_path: Path, fd: str) -> None:
    subprocess.run([sys.executable, "-c", _INTERRUPTED, fd, str(tmp_path / "found")], check=True, cwd=ROOT)
    assert (tmp_path / "found").read_text() == "a line\nthe end\n"


def fill_level(pipe: int) -> int:
    """Return the number of bytes in the pipe."""
    waiting = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(waiting, sys.byteorder)
