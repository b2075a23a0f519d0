"""The virtual machine: its commands, its systemd units, and its journal."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOCKET = Path("/run/.heim_org.h5l.kcm-socket")
STATE = Path("/var/lib/pykcm")
SERVICE = "pykcm.service"
SOCKET_UNIT = "pykcm.socket"

# Drop-ins here are lost when the machine ends.
_DROP_INS = Path("/run/systemd/system")

_CONFIG = Path("/etc/pykcm/pykcm.toml")
_CGROUP = Path("/sys/fs/cgroup/system.slice", SERVICE, "cgroup.procs")

# In seconds, for each wait: the emulated machine is ten times as slow as a real one.
PATIENCE = 300

# The time of the last start_afresh().
_begin_of_test = 0.0


def attempt(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its stdout has all of its output."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=PATIENCE
    )


_ASK = """
import sys
from pykcm.cli.client import ControlClient
from pykcm.control.messages import ControlError
try:
    list(ControlClient(sys.argv[1]).ask(sys.argv[2]))
except ControlError as error:
    print(f"{error.code}: {error.message}")
"""


def refusal(control_socket: str, request: str, *prefix: str) -> str:
    """The daemon's answer to a request over a control socket, made by the command that is the prefix."""
    return run(*prefix, sys.executable, "-c", _ASK, control_socket, request)


def run(*command: str) -> str:
    """Run a command that must succeed, and return its output."""
    done = attempt(*command)
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def shell(script: str) -> str:
    """Run shell commands that must all succeed, and return their output."""
    return run("bash", "-euo", "pipefail", "-c", script)


def wait_until(holds: Callable[[], object], condition: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {condition}"
        time.sleep(0.05)


def property_of(unit: str, name: str) -> str:
    """Return one property of a unit from systemctl."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def is_active(unit: str) -> bool:
    return property_of(unit, "ActiveState") == "active"


def main_pid() -> int:
    """Return the daemon's PID, or 0 while it does not run."""
    return int(property_of(SERVICE, "MainPID"))


def journal(*matches: str) -> str:
    """Return the lines of pykcm's service since start_afresh()."""
    run("journalctl", "--sync")
    # Not by a cursor: together with a match, journalctl leaves out the first line behind it.
    begin = f"--since=@{_begin_of_test:.6f}"
    return run("journalctl", begin, "--quiet", "--output=cat", f"--unit={SERVICE}", *matches)


def denials(*options: str) -> str:
    """Return the policy's denials since the boot that match the options of ausearch."""
    found = subprocess.run(
        ["ausearch", "--input-logs", "--message", "AVC,SELINUX_ERR", *options, "--start", "boot"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0 or "<no matches>" in found.stderr, found
    return found.stdout


def doctor(*wrapper: str) -> dict[str, dict[str, Any]]:
    """Run pykcmctl doctor, and return its results by the name of the check."""
    done = attempt(*wrapper, "pykcmctl", "doctor", "--json")
    checks = {each["check"]: each for each in json.loads(done.stdout)}
    assert done.returncode == any(each["outcome"] == "failed" for each in checks.values())
    return checks


def drop_in(unit: str, text: str) -> None:
    """Change a unit until the next start_afresh()."""
    folder = _DROP_INS / f"{unit}.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.conf").write_text(text)
    run("systemctl", "daemon-reload")


@contextmanager
def permissive() -> Iterator[None]:
    """Make SELinux permissive: it logs denials and allows the access."""
    run("setenforce", "0")
    try:
        yield
    finally:
        run("setenforce", "1")


def start_afresh() -> None:
    """Remove all stored data and drop-ins; the socket listens, and the service does not run."""
    run("systemctl", "stop", SOCKET_UNIT, SERVICE)
    shell(f"rm -rf {STATE}/* /etc/pykcm {_DROP_INS}/pykcm*.d /etc/credstore.encrypted/pykcm.key")
    run("systemctl", "daemon-reload")
    shell("systemctl reset-failed 'pykcm*'")
    global _begin_of_test  # noqa: PLW0603 - there is one machine
    _begin_of_test = time.time()
    run("systemctl", "start", SOCKET_UNIT)


def configure(toml: str) -> None:
    """Write the configuration for the next start, until the next start_afresh()."""
    _CONFIG.parent.mkdir(exist_ok=True)
    _CONFIG.write_text(toml)


def processes() -> list[int]:
    """Return the PIDs of the service, the main one first; it is faster than `main_pid`."""
    try:
        return [int(pid) for pid in _CGROUP.read_text().split()]
    except OSError:
        return []


def status_of(pid: int) -> dict[str, list[str]]:
    """Return the words of each line of /proc/PID/status, by the line's name."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: words.split() for name, _, words in lines}


def wait_for_the_end() -> None:
    """Wait until the service has ended in order."""
    wait_until(lambda: property_of(SERVICE, "ActiveState") == "inactive", "the service ends")
    assert property_of(SERVICE, "Result") == "success"
