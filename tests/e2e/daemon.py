"""`pykcmd` as a process that tests start, restart and kill; its state stays in one folder."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pykcm
from pykcm.client import KcmClient
from pykcm.store.clock_reading import CLOCK

from .waiting import wait_until

# In seconds; long enough for a loaded machine, and never reached if everything works.
LIMIT = 60.0

COMMAND = (sys.executable, "-m", "pykcm")

# The folder of the imported `pykcm`: the daemon runs the same code from any working directory.
ROOT = Path(pykcm.__file__).parent.parent


class NotStartedError(Exception):
    """The daemon ended before it served; `code` is its exit code, `message` its stderr."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"pykcmd ended with exit code {code}:\n{message}")
        self.code = code
        self.message = message


class Pykcmd:
    """A daemon whose socket, state, configuration and log are below `folder`."""

    def __init__(self, folder: Path, *, store: str = "sqlcipher", uid: int | None = None) -> None:
        self.folder = folder
        self.socket_path = folder / "kcm.sock"
        self.control_path = folder / "control.sock"
        self.state_dir = folder / "state"
        self.config_path = folder / "pykcm.toml"
        self.log_path = folder / "pykcmd.log"
        self.store = store
        self.uid = uid
        self.command: tuple[str, ...] = COMMAND
        self.python_path = str(ROOT)
        self.process: subprocess.Popen[bytes] | None = None
        self.config_path.write_text("")
        self.log_path.touch()

    @property
    def options(self) -> list[str]:
        return [
            *("--config", str(self.config_path)),
            *("--socket-path", str(self.socket_path)),
            *("--control-socket-path", str(self.control_path)),
            *("--state-dir", str(self.state_dir)),
            *("--store", self.store),
            *("--log-level", "debug"),
        ]

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="backslashreplace")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def resident_size(self) -> int:
        """The daemon's memory in bytes."""
        return memory_in(Path(f"/proc/{self.pid}/status"), "VmRSS")

    @property
    def peak_size(self) -> int:
        """The most memory that the daemon has had since its start, in bytes."""
        return memory_in(Path(f"/proc/{self.pid}/status"), "VmHWM")

    @property
    def descriptors(self) -> int:
        """The number of open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def configure(self, toml: str) -> None:
        """Set the configuration for the next start."""
        self.config_path.write_text(toml)

    def launch(
        self,
        *more_options: str,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start the process without waiting; `wrapper` is a program that execs the daemon."""
        assert not self.running
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, *self.command, *self.options, *more_options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "LC_ALL": "C.UTF-8",
                    "PYTHONPATH": self.python_path,
                    **(environment or {}),
                },
                cwd=self.folder,
                pass_fds=pass_fds,
                user=self.uid,
                group=self.uid,
                extra_groups=None if self.uid is None else [],
            )
        return self.process

    def start(
        self,
        *more_options: str,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the daemon and wait until it answers a request; raises NotStartedError."""
        logged = len(self.log)
        process = self.launch(*more_options, wrapper=wrapper, environment=environment)
        deadline = time.monotonic() + LIMIT
        while not self.answers():
            # Waiting for the end of the process ends at once if the daemon cannot start.
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.01)
                raise NotStartedError(code, self.log[logged:])
            assert time.monotonic() < deadline, f"pykcmd does not answer:\n{self.log}"

    def start_settled(self, *more_options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon, and wait until it has done its work of the first second.

        It cannot replace a folder by its file `clock`, and logs this when the clock's thread has nothing more
        to sync. That thread works again an hour later.
        """
        clock = self.state_dir / CLOCK
        clock.unlink(missing_ok=True)
        self.state_dir.mkdir(0o700, exist_ok=True)
        (clock / "in the way").mkdir(parents=True, exist_ok=True)
        logged = len(self.log)
        self.start(*more_options, environment=environment)
        wait_until(lambda: f"{clock}: not written: " in self.log[logged:])

    def answers(self) -> bool:
        """Whether a server answers on the socket."""
        try:
            with KcmClient(self.socket_path, timeout=LIMIT) as kcm:
                kcm.noop()
        except OSError:
            return False
        return True

    def wait(self) -> int:
        """Wait until the daemon has ended by itself; returns the exit code."""
        assert self.process is not None
        return self.process.wait(LIMIT)

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Send SIGKILL: nothing is flushed or logged."""
        assert self.process is not None
        self.process.kill()
        self.wait()

    def restart(self) -> None:
        assert self.stop() == 0, self.log
        self.start()

    def refusal(self, *more_options: str) -> NotStartedError:
        """Start a daemon that must refuse to start; returns its error."""
        try:
            self.start(*more_options)
        except NotStartedError as refused:
            return refused
        raise AssertionError(f"pykcmd started, but had to refuse:\n{self.log}")

    def end(self) -> None:
        """Kill the daemon if it still runs, at the end of a test."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT)


def memory_in(status: Path, field: str) -> int:
    """A size in bytes from a /proc/PID/status: `VmRSS` for now, `VmHWM` for the maximum so far."""
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def effective_uid(uid: int) -> Iterator[None]:
    """Use another effective UID: the kernel reports it to the peers of connections made meanwhile."""
    uid_before, gid_before = os.geteuid(), os.getegid()
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(uid_before)
        os.setegid(gid_before)
