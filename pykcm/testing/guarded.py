"""Programs that end with this process, however it ends."""

import os
import shutil
import signal
import subprocess
import time
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pykcm.testing.folder import SYSTEM_PATH, TemporaryFolder

# With this variable, a missing program is an error: a test run that must not be skipped sets it.
_REQUIRED = "PYKCM_TESTING_REQUIRED"

# In seconds; long enough for a loaded machine.
_PATIENCE = 30.0
_INTERVAL = 0.004

# The first line of standard input ends the program, and so does the end of the input: then the process that
# has started it is dead. libfaketime leaves its shared memory behind if a program ends by a signal.
_GUARD = """
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
(
    read -r line <&3
    kill "$program"
) &
guard=$!
wait "$program"
status=$?
kill "$guard" 2>/dev/null
[ ! -e "/dev/shm/faketime_shm_$program" ] ||
    rm -f "/dev/shm/faketime_shm_$program" "/dev/shm/sem.faketime_sem_$program" 2>/dev/null
exit "$status"
"""


class KerberosMissingError(unittest.SkipTest):
    """A program is missing that the tests need; pytest and unittest skip the test for this reason."""


class NotStartedError(Exception):
    """A program ended before it served, or never did; the message has its output."""


def report_missing(reason: str) -> None:
    """Raise KerberosMissingError, or NotStartedError with PYKCM_TESTING_REQUIRED=1."""
    if os.environ.get(_REQUIRED, "0") not in {"", "0"}:
        raise NotStartedError(f"{reason} ({_REQUIRED} is set)")
    raise KerberosMissingError(reason)


def find_program(name: str) -> str | None:
    """The path of a program, also of one for administrators; None if it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def missing_programs(names: Sequence[str]) -> list[str]:
    return [name for name in names if find_program(name) is None]


class Guarded:
    """A program that a shell starts, and ends when this process ends or says so.

    Its output is appended to `log_path`. `variables` are set for the program alone: a shell with libfaketime
    would leave shared memory behind.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: TemporaryFolder,
        log_path: Path,
        environment: Mapping[str, str],
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._name = Path(command[0]).name
        self._log_path = log_path
        self._logged = log_path.stat().st_size if log_path.exists() else 0
        settings = ["/usr/bin/env", *map("=".join, variables.items())] if variables else []
        with log_path.open("ab") as log:
            # In a session of its own, so that Ctrl-C in a terminal does not end it before the tests.
            self._process = subprocess.Popen(  # noqa: S603 - its words are the caller's
                ["/bin/sh", "-c", _GUARD, "pykcm-testing", *settings, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(environment),
                cwd=folder.path,
                pass_fds=[folder.lease],
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """The output since the start."""
        return self._log_path.read_bytes()[self._logged :].decode(errors="backslashreplace")

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until the program serves. Otherwise stop it, and raise NotStartedError."""
        deadline = time.monotonic() + _PATIENCE
        while not is_ready():
            # Waiting for the end of the process ends at once if the program cannot start.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_INTERVAL)
                status = self.stop()
                raise NotStartedError(f"{self._name} ended with status {status}:\n{self.output}")
            if time.monotonic() > deadline:
                self.stop()
                raise NotStartedError(f"{self._name} does not answer:\n{self.output}")

    def stop(self) -> int:
        """End the program, which may have ended already; returns its exit status."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.write(b"stop\n")
                self._process.stdin.flush()
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()
        finally:
            with suppress(BrokenPipeError):
                self._process.stdin.close()


class ThrowAway(ABC):
    """A server in a temporary folder: a context manager that starts it, and removes the folder at the end."""

    def __init__(self, log_name: str) -> None:
        self.temporary_folder = TemporaryFolder()
        self.folder = self.temporary_folder.path
        self.krb5_conf = self.folder / "krb5.conf"
        self.log_path = self.folder / log_name
        self._process: Guarded | None = None

    def __enter__(self) -> Self:
        try:
            self._enter()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(self) -> None:
        self.start()

    def close(self) -> None:
        """End the server, and remove its folder with all keys."""
        self.stop()
        self.temporary_folder.remove()

    def start(self) -> None:
        """Start the server, and wait until it answers; raises NotStartedError."""
        if not self.is_running:
            # It may have ended by itself.
            self.stop()
            # Before the wait, which Ctrl-C may end: then close() ends the server.
            self._process = self._launched()
            self._process.wait_until(self._serves)

    @abstractmethod
    def _launched(self) -> Guarded:
        """Start the server."""

    @abstractmethod
    def _serves(self) -> bool:
        """Whether the server that was started last answers."""

    @property
    def _output(self) -> str:
        """The output of the server since its last start."""
        return "" if self._process is None else self._process.output

    def stop(self) -> None:
        """End the server, as if it could not be reached; `start` starts it again."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    @property
    def log(self) -> str:
        """The server's log lines."""
        return self.log_path.read_text(errors="backslashreplace") if self.log_path.exists() else ""
