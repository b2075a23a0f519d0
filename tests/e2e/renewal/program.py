"""`pykcm-renew` as a process that tests start, restart and kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.daemon import LIMIT, ROOT, Pykcmd, memory_in
from tests.e2e.waiting import wait_until

COMMAND = (sys.executable, "-m", "pykcm.renew.program")


class PykcmRenew:
    """The program for one daemon. Its log is in the daemon's folder."""

    def __init__(self, daemon: Pykcmd, krb5_conf: Path) -> None:
        self.daemon = daemon
        self.krb5_conf = krb5_conf
        self.log_path = daemon.folder / "pykcm-renew.log"
        self.log_path.touch()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="backslashreplace")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self, *options: str) -> None:
        """Start the process without waiting."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *COMMAND,
                    *("--config", str(self.daemon.config_path)),
                    *("--control-socket", str(self.daemon.control_path)),
                    *("--log-level", "debug"),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "LC_ALL": "C.UTF-8",
                    "TZ": "UTC",
                    "PYTHONPATH": str(ROOT),
                    "KRB5_CONFIG": str(self.krb5_conf),
                },
            )

    def start(self) -> None:
        """Start the process, and wait until the daemon hands over TGTs."""
        before = len(self.log)
        self.launch()
        wait_until(lambda: "ready:" in self.log[before:] or self._has_ended())
        assert not self._has_ended(), self.log

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT)

    def kill(self) -> None:
        """Send SIGKILL; its worker processes end by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(LIMIT)

    def end(self) -> None:
        """Kill the process if it still runs, at the end of a test."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def memory(self) -> int:
        """The memory of the program and of its workers in bytes, of which shared parts count once."""
        group = [self.pid, *_descendants(self.pid)]
        return sum(memory_in(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in group)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *_descendants(child))]
