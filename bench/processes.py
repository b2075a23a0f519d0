"""Other programs: run to their end, or kept running as servers."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# Long enough for a loaded machine; nothing waits this long when all is right.
PATIENCE = 30.0

# Debian keeps the administrator's programs out of an ordinary user's PATH.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_KIB = 1024


class BenchError(Exception):
    """Something cannot be measured; the message says what and why."""


def say(message: str) -> None:
    sys.stderr.write(f"bench: {message}\n")


def environment(**more: str) -> dict[str, str]:
    """Nothing of the user's own Kerberos or of a service manager plays a part."""
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **more}


def finish(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its exit status is the caller's to look at."""
    return subprocess.run(  # noqa: S603 - all commands are put together here
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
    """The stdout of a program that must succeed; raises BenchError with what it said."""
    try:
        done = finish(command, env=env, cwd=cwd, timeout=timeout)
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]}: not done after {error.timeout:.0f} s") from error
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise BenchError(f"{words}: exit status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def wall_time(command: Sequence[str | Path], env: Mapping[str, str]) -> float:
    """Seconds from the start of a program to its end, with its output thrown away; it must succeed."""
    words = [str(word) for word in command]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        begin = time.perf_counter()
        # Cheaper than subprocess, so that less of what is measured is ours.
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
    """Have this process, what it starts meanwhile and the process `pid` on the same CPU."""
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
    """A server on a Unix socket, started and ended here; `name` is what the tables call it."""

    def __init__(self, name: str, folder: Path, socket_path: Path) -> None:
        self.name = name
        self.folder = folder
        self.socket_path = socket_path
        self._log_path = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to start."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Its environment."""
        return environment()

    def start(self) -> None:
        """Start it, and wait until it takes a connection."""
        self.socket_path.unlink(missing_ok=True)
        command = self.command()
        if setpriv := shutil.which("setpriv", path=PATH):
            # Should this process be killed, its servers end as well.
            command = [setpriv, "--pdeathsig", "TERM", *command]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - all commands are put together here
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.folder,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BenchError(f"{self.name} does not start:\n{self._end_of_log()}")
            time.sleep(0.01)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            say(f"{self.name} did not end in {PATIENCE:.0f} s and was killed")
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
        """Bytes of memory that the process occupies now."""
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
