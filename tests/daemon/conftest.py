"""The command `pykcmd`, started and stopped by the tests."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykcm.client import KcmClient

ROOT = Path(__file__).parents[2]

# In seconds, for a loaded machine. A wait that reaches it has failed.
LIMIT = 60.0

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Daemon:
    """pykcmd with its configuration and state in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket_path = folder / "kcm.sock"
        self.state_dir = folder / "state"
        self.config = folder / "pykcm.toml"
        self.log_path = folder / "log"
        self.program = ["-m", "pykcm"]
        self.running: list[subprocess.Popen[bytes]] = []
        self.config.write_text(
            f'socket_path = "{self.socket_path}"\nstate_dir = "{self.state_dir}"\nlog_level = "debug"\n'
        )

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.program, "--config", str(self.config)]

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def run(self, *options: str, configured: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end."""
        command = self.command if configured else self.command[:3]
        return subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
            cwd=self.folder,
            env=ENVIRONMENT,
        )

    def refusal(self, *options: str) -> str:
        """Return the message of a command that does not start: one line, with exit status 1."""
        done = self.run(*options)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("pykcmd: critical: ")
        return line

    def start(
        self, *options: str, until: Callable[["Daemon"], bool] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start the command, and wait until it serves or `until` is true."""
        has_started = Daemon.serves if until is None else until
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [*self.command, *options], stdout=log, stderr=log, cwd=self.folder, env=ENVIRONMENT
            )
        self.running.append(process)
        deadline = time.monotonic() + LIMIT
        while not has_started(self):
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"pykcmd ended with status {process.wait(0.01)}:\n{self.log}")
            assert time.monotonic() < deadline, self.log
        return process

    def serves(self) -> bool:
        try:
            with KcmClient(self.socket_path, LIMIT) as kcm:
                kcm.noop()
        except OSError:
            return False
        return True


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """pykcmd, configured for the test's folder. Its processes are killed after the test."""
    daemon = Daemon(tmp_path)
    yield daemon
    for process in daemon.running:
        if process.poll() is None:
            process.kill()
        process.wait(LIMIT)


def end(process: "subprocess.Popen[bytes]", number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(LIMIT)
