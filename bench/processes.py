"""Other programs: commands that run to their end, and servers that keep running."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# In seconds, for a loaded machine. A wait that reaches it has failed.
TIMEOUT = 30.0

# On Debian, the PATH of an ordinary user lacks the sbin folders.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_KIB = 1024


class BenchError(Exception):
    """A figure cannot be measured; the message names it and the reason."""


class LateError(BenchError):
    """A program had not ended in time."""


def say(message: str) -> None:
    """Write a message to the standard error."""
    sys.stderr.write(f"bench: {message}\n")


def environment(**more: str) -> dict[str, str]:
    """Return an environment without the user's Kerberos settings and a service manager's variables."""
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **more}


def finish(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. The caller checks the exit status."""
    return subprocess.run(  # noqa: S603 - the benchmark builds all commands itself
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        text=True,
        env=dict(env) if env is not None else environment(),
        cwd=cwd,
        check=False,
        timeout=timeout,
    )


def output_of(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Return the stdout of a program that must succeed; raises BenchError with its stderr, or LateError."""
    try:
        done = finish(command, env=env, cwd=cwd, timeout=timeout)
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise LateError(f"{command[0]} had not ended after {error.timeout:.0f} s") from error
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise BenchError(f"{words}: exit status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def wall_time(command: Sequence[str | Path], env: Mapping[str, str]) -> float:
    """Return the seconds from the start of a program to its end; discards its output; it must succeed."""
    words = [str(word) for word in command]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        begin = time.perf_counter()
        # It costs less than subprocess, so that the measurement itself takes less of the time.
        pid = os.posix_spawn(
            words[0],
            words,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)],
        )
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - begin
    finally:
        os.close(null)
    if status:
        raise BenchError(f"{' '.join(words)}: exit status {os.waitstatus_to_exitcode(status)}")
    return seconds


@contextlib.contextmanager
def on_one_cpu(pid: int | None = None) -> Iterator[None]:
    """Pin this process, the processes that it starts meanwhile, and the process `pid` to the same CPU."""
    usual = os.sched_getaffinity(0)
    try:
        _set_cpus({max(usual)}, pid)
        yield
    finally:
        _set_cpus(usual, pid)


def _set_cpus(cpus: set[int], pid: int | None) -> None:
    os.sched_setaffinity(0, cpus)
    for thread in Path(f"/proc/{pid}/task").iterdir() if pid else ():
        os.sched_setaffinity(int(thread.name), cpus)


class Server:
    """A server on a Unix socket, started and stopped here; `name` is its name in the tables."""

    def __init__(self, name: str, folder: Path, socket_path: Path) -> None:
        self.name = name
        self.folder = folder
        self.socket_path = socket_path
        self._log_path = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command that starts it."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The environment that it is started with."""
        return environment()

    def start(self) -> None:
        """Start it, and wait until it accepts a connection."""
        self.socket_path.unlink(missing_ok=True)
        command = self.command()
        if setpriv := shutil.which("setpriv", path=PATH):
            # If this process is killed, its servers end as well.
            command = [setpriv, "--pdeathsig", "TERM", *command]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the benchmark builds all commands itself
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.folder,
            )
        deadline = time.monotonic() + TIMEOUT
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BenchError(f"{self.name} did not start; its log ends with:\n{self._end_of_log()}")
            time.sleep(0.01)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            say(f"{self.name} did not end within {TIMEOUT:.0f} s of SIGTERM and was killed")
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def resident_size(self) -> int:
        """Return the resident memory of the process, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        (size,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(size) * _KIB

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.socket_path))
            except OSError:
                return False
        return True

    def _end_of_log(self) -> str:
        return "\n".join(self._log_path.read_text(errors="backslashreplace").splitlines()[-20:])
