"""The waits of one user while others try to stop everybody, beside the promise of docs/reliability.md."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.processes import PATIENCE, BenchError, Server, environment, say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.variations import FIRST_ATTACKER, VARIATIONS, VICTIM_UID, Attack, Variation

# The promise, in seconds and MiB.
PROMISED = {"held": 0.1, "new": 0.25}
PROMISED_SIZE = 200

LOOPS = ("uvloop", "asyncio")

_VICTIM = Path(__file__).with_name("victim.py")
_KIB_IN_MIB = 1024

# Longer than the measuring, by as much as its preparation may take.
_MORE_SECONDS = 3.0

_WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; from pykcm.daemon import main; sys.exit(main())"

_KRB5_CONF = """\
[libdefaults]
    default_realm = LOAD.TEST
    kcm_socket = {socket_path}
"""


class AttackedPykcm(Server):
    """pykcmd as it is configured by default, on one of the event loops and within the variation's limits."""

    def __init__(self, folder: Path, variation: Variation, loop: str) -> None:
        folder.mkdir(mode=0o755, parents=True)
        super().__init__("pykcm", folder, folder / "kcm.sock")
        self._variation = variation
        self._loop = loop
        self.krb5_conf = folder / "krb5.conf"
        self.krb5_conf.write_text(_KRB5_CONF.format(socket_path=self.socket_path))

    def command(self) -> list[str]:
        program = ["-m", "pykcm"] if self._loop == "uvloop" else ["-c", _WITHOUT_UVLOOP]
        limits = []
        if self._variation.descriptors:
            limits.append(f"--nofile={self._variation.descriptors}")
        if self._variation.address_space:
            limits.append(f"--as={self._variation.address_space}")
        return [
            *(["prlimit", *limits] if limits else []),
            *(sys.executable, *program, "--config", str(self._empty_file())),
            *("--socket-path", str(self.socket_path), "--control-socket-path", ""),
            *("--state-dir", str(self.folder / "state"), "--log-level", "error"),
        ]

    def _empty_file(self) -> Path:
        path = self.folder / "pykcm.toml"
        path.touch()
        return path

    @property
    def greatest_size(self) -> float:
        """The most that was resident so far, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / _KIB_IN_MIB


@dataclass(slots=True)
class Waits:
    """The waits of a victim in seconds, by kind of request; its failures; the daemon's size in MiB."""

    seconds: dict[str, list[float]]
    failed: dict[str, int]
    size: float

    def percentile(self, kind: str, percent: int) -> float:
        seconds = self.seconds[kind]
        return seconds[0] if len(seconds) == 1 else quantiles(seconds, n=100, method="inclusive")[percent - 1]

    @property
    def keeps_the_promise(self) -> bool:
        in_time = all(max(self.seconds[kind], default=0) <= most for kind, most in PROMISED.items())
        return in_time and not self.failed and self.size <= PROMISED_SIZE


def measure_variation(folder: Path, variation: Variation, loop: str, seconds: float) -> Waits:
    """Run one variation on one event loop; raises BenchError."""
    server = AttackedPykcm(folder, variation, loop)
    with server.running():
        lasting = seconds + _MORE_SECONDS
        with contextlib.ExitStack() as at_end:
            uid = FIRST_ATTACKER
            for attack in variation.attacks:
                at_end.enter_context(attacking(attack, server, uid, lasting))
                uid += attack.uids
            said = _run_victim(server, seconds)
        size = server.greatest_size
    return Waits(said["waits"], said["failed"], size)


@contextlib.contextmanager
def attacking(attack: Attack, server: Server, first_uid: int, seconds: float) -> Iterator[None]:
    """The attack's programs, which all have begun."""
    running: list[subprocess.Popen[str]] = []
    try:
        running.extend(map(_start, attack.commands(server.socket_path, first_uid, seconds)))
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - all commands are put together here
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
    )


def _run_victim(server: AttackedPykcm, seconds: float) -> Any:
    command = [sys.executable, _VICTIM, server.socket_path, VICTIM_UID, seconds, server.krb5_conf]
    try:
        done = subprocess.run(  # noqa: S603 - all commands are put together here
            list(map(str, command)),
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
            timeout=seconds + 2 * PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the victim was not served for {error.timeout:.0f} s") from error
    if done.returncode:
        raise BenchError(f"the victim failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_adversary(folder: Path, effort: Effort) -> str:
    """The table; raises BenchError."""
    if os.geteuid() != 0:
        raise BenchError("adversary: nothing was measured: only root can be several users")
    lines = []
    for number, variation in enumerate(VARIATIONS):
        for loop in LOOPS:
            say(f"adversary: {variation.name}, {loop}")
            waits = measure_variation(folder / f"{number}-{loop}", variation, loop, effort.seconds)
            lines.append(_line(variation, loop, waits))
    header = ["kind", "attack", "loop", "open connection", "new connection", "klist", "size", "kept"]
    about = (
        "GET_DEFAULT_CACHE of one UID over an open connection and over new ones, and `klist -l`, while "
        "others attack: p50, p99 and the longest wait in ms, and the daemon's greatest resident size. "
        f"{effort.seconds:g} s each. Promised: {PROMISED['held'] * 1000:g} ms, "
        f"{PROMISED['new'] * 1000:g} ms and {PROMISED_SIZE} MiB. Nothing is pinned to a CPU: the daemon, the "
        "attackers and the user share all."
    )
    return f"{markdown_table(header, lines, left=3)}\n{paragraph(about)}\n"


def _line(variation: Variation, loop: str, waits: Waits) -> list[str]:
    kept = "yes" if waits.keeps_the_promise else "**no**"
    if waits.failed:
        kept += " (" + ", ".join(f"{why}: {count} x" for why, count in waits.failed.items()) + ")"
    times = [_times(waits, kind) for kind in ("held", "new", "klist")]
    return [variation.kind, variation.name, loop, *times, f"{waits.size:.0f} MiB", kept]


def _times(waits: Waits, kind: str) -> str:
    seconds = waits.seconds[kind]
    if not seconds:
        return "-"
    figures = (waits.percentile(kind, 50), waits.percentile(kind, 99), max(seconds))
    return " / ".join(f"{each * 1000:.1f}" for each in figures)
