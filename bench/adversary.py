"""The waits of one user while others attack the daemon, compared with the limits in docs/reliability.md."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from typing import Any, Self

from bench.processes import TIMEOUT, BenchError, Server, environment, output_of, say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.variations import FIRST_ATTACKER, VARIATIONS, VICTIM_UID, Attack, Variation

# The promised limits, in seconds and MiB.
PROMISED = {"held": 0.1, "new": 0.25}
PROMISED_SIZE = 200

# Log lines that one UID can cause in a minute, of all kinds together (see pykcm.logs.LimitedLog).
PROMISED_LINES = 250

_PYKCMCTL = (sys.executable, "-m", "pykcm.cli.main")
_VICTIM = Path(__file__).with_name("victim.py")
_KIB_IN_MIB = 1024

# In seconds. The attacking programs are killed when the measurement ends.
_ATTACK_SECONDS = 3600.0
_COMMAND_TIMEOUT = 60.0

# Between two counts of the log's lines, in seconds.
_COUNT_INTERVAL = 0.05

_KRB5_CONF = """\
[libdefaults]
    default_realm = LOAD.TEST
    kcm_socket = {socket_path}
"""


class AttackedPykcm(Server):
    """pykcmd with the default configuration and the variation's limits."""

    def __init__(self, folder: Path, variation: Variation) -> None:
        folder.mkdir(mode=0o755, parents=True)
        super().__init__("pykcm", folder, folder / "kcm.sock")
        self._variation = variation
        self.krb5_conf = folder / "krb5.conf"
        self.krb5_conf.write_text(_KRB5_CONF.format(socket_path=self.socket_path))

    def command(self) -> list[str]:
        limits = []
        if self._variation.descriptors:
            limits.append(f"--nofile={self._variation.descriptors}")
        if self._variation.address_space:
            limits.append(f"--as={self._variation.address_space}")
        if self._variation.memory:
            limits.append(f"--data={self._variation.memory}")
        return [
            *(["prlimit", *limits] if limits else []),
            *(sys.executable, "-m", "pykcm", "--config", str(self._configuration())),
            *("--socket-path", str(self.socket_path), "--control-socket-path", str(self.control_path)),
            *("--state-dir", str(self.folder / "state")),
        ]

    def _configuration(self) -> Path:
        path = self.folder / "pykcm.toml"
        path.write_text(self._variation.configuration)
        return path

    @property
    def control_path(self) -> Path:
        return self.folder / "control.sock"

    @property
    def log_size(self) -> int:
        """The number of lines in the log."""
        return self._log_path.read_bytes().count(b"\n")

    @property
    def greatest_size(self) -> float:
        """The largest resident size since the start, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / _KIB_IN_MIB


@dataclass(slots=True)
class Waits:
    """The measured waits of the victim in seconds, by kind of request.

    `failed`: the number of failed requests by reason. `size`: the daemon's, in MiB. `uids`: the number of
    attacking UIDs. `lines`: log lines during the measurement; `most_lines`: the most of them in one second.
    `done`: the number of completed runs of each pykcmctl command. `uncompleted`: the errors of failed runs.
    """

    seconds: dict[str, list[float]]
    failed: dict[str, int]
    size: float
    uids: int
    lines: int
    most_lines: int
    done: Counter[str] = field(default_factory=Counter)
    uncompleted: list[BenchError] = field(default_factory=list)

    def percentile(self, kind: str, percent: int) -> float:
        seconds = self.seconds[kind]
        return seconds[0] if len(seconds) == 1 else quantiles(seconds, n=100, method="inclusive")[percent - 1]

    @property
    def has_few_lines(self) -> bool:
        return self.lines <= PROMISED_LINES * (self.uids + 1)

    @property
    def keeps_the_promise(self) -> bool:
        in_time = all(max(self.seconds[kind], default=0) <= most for kind, most in PROMISED.items())
        is_small = self.size <= PROMISED_SIZE
        return in_time and is_small and self.has_few_lines and not self.failed and not self.uncompleted


def measure_variation(folder: Path, variation: Variation, seconds: float) -> Waits:
    """Run one variation on one event loop; raises BenchError."""
    server = AttackedPykcm(folder, variation)
    with server.running():
        with attacking(variation.attacks, server), contextlib.ExitStack() as at_end:
            administration = at_end.enter_context(_Administration(server, variation.administration, seconds))
            log = at_end.enter_context(_LogRate(server))
            result = _run_victim(server, seconds, administration)
        size = server.greatest_size
    return Waits(
        result["waits"],
        result["failed"],
        size,
        variation.uids,
        log.lines,
        log.most,
        administration.done,
        administration.uncompleted,
    )


@contextlib.contextmanager
def attacking(attacks: Sequence[Attack], server: Server) -> Iterator[None]:
    """Run the attacks' programs within `with`, after all of them have begun; raises BenchError."""
    uid = FIRST_ATTACKER
    commands: dict[bool, list[list[str]]] = {True: [], False: []}
    for attack in attacks:
        commands[attack.has_preparation] += attack.commands(server.socket_path, uid, _ATTACK_SECONDS)
        uid += 0 if attack.as_root else attack.uids
    running: list[subprocess.Popen[str]] = []
    try:
        # All preparations are done together, before anything attacks.
        for has_preparation in (True, False):
            started = [_start(command) for command in commands[has_preparation]]
            running += started
            for process in started:
                assert process.stdout is not None
                process.stdout.readline()
        for process in running[: len(commands[True])]:
            assert process.stdin is not None
            # A program that has ended already is reported below.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
        yield
        for process in running:
            if process.poll() is not None:
                assert process.stderr is not None
                words = " ".join(process.args) if isinstance(process.args, list) else ""
                raise BenchError(
                    f"{words}: ended before the measurement did:\n{process.stderr.read().strip()}"
                )
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.communicate()


class _InThread:
    """Calls `_run` in a thread within `with`; `_run` must return when `_ended` is set."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class _LogRate(_InThread):
    """Counts the log lines within `with`: `lines` is their number, `most` the most in one second."""

    def __init__(self, server: AttackedPykcm) -> None:
        super().__init__()
        self._server = server
        self._sizes: list[tuple[float, int]] = []

    def _run(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._ended.wait(_COUNT_INTERVAL)
            self._sizes.append((time.monotonic(), self._server.log_size))

    @property
    def lines(self) -> int:
        return self._sizes[-1][1] - self._sizes[0][1]

    @property
    def most(self) -> int:
        return max(
            size - next(earlier for then, earlier in self._sizes if now - then <= 1)
            for now, size in self._sizes
        )


class _Administration(_InThread):
    """Runs pykcmctl commands within `with`, in turn, for `seconds` and until each has run once."""

    def __init__(self, server: AttackedPykcm, commands: Sequence[Sequence[str]], seconds: float) -> None:
        super().__init__()
        self.done: Counter[str] = Counter()
        self.uncompleted: list[BenchError] = []
        # Set when each command has run once.
        self.ran_once = threading.Event()
        self._server = server
        self._commands = commands
        self._seconds = seconds

    def _run(self) -> None:
        end = time.monotonic() + self._seconds
        try:
            for command in cycle(self._commands):
                words = [word.format(folder=self._server.folder) for word in command]
                try:
                    output_of(
                        [*_PYKCMCTL, "--socket", self._server.control_path, *words], timeout=_COMMAND_TIMEOUT
                    )
                except BenchError as error:
                    self.uncompleted.append(error)
                else:
                    self.done[command[0]] += 1
                if command == self._commands[-1]:
                    self.ran_once.set()
                if self._ended.is_set() or (self.ran_once.is_set() and time.monotonic() >= end):
                    return
        finally:
            self.ran_once.set()


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - the benchmark builds all commands itself
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )


def _run_victim(server: AttackedPykcm, seconds: float, administration: _Administration) -> Any:
    """Measure for that many seconds, and until every command of the administration has run once."""
    victim = _start(
        [sys.executable, *map(str, (_VICTIM, server.socket_path, VICTIM_UID, seconds, server.krb5_conf))]
    )
    try:
        administration.ran_once.wait()
        output, errors = victim.communicate(timeout=seconds + 2 * TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the measured user had not finished after {error.timeout:.0f} s") from error
    finally:
        victim.kill()
        victim.communicate()
    if victim.returncode:
        raise BenchError(f"the program of the measured user failed:\n{errors.strip()}")
    return json.loads(output.splitlines()[-1])


def measure_adversary(folder: Path, effort: Effort) -> str:
    """Measure and return the table; raises BenchError."""
    if os.geteuid() != 0:
        raise BenchError("the attacks were not measured: only root can act as several users; run it as root")
    lines = []
    for number, variation in enumerate(VARIATIONS):
        say(f"adversary: {variation.name}")
        waits = measure_variation(folder / str(number), variation, effort.seconds)
        lines.append(_line(variation, waits))
    header = [
        "kind",
        "attack",
        "open connection",
        "new connection",
        "klist",
        "size",
        "log",
        "pykcmctl",
    ]
    about = (
        "One UID makes GET_DEFAULT_CACHE requests over an open connection and over new ones, and runs "
        "`klist -l`, while others attack. The columns show p50, p99 and the longest wait in ms, the daemon's "
        "largest resident size, the log lines (and the most of them in one second), and the number of "
        "completed runs of each pykcmctl command. "
        f"Each run lasts {effort.seconds:g} s, or until each command has run once. "
        f"The limits are {PROMISED['held'] * 1000:g} ms on an open connection, {PROMISED['new'] * 1000:g} ms "
        f"on a new one, {PROMISED_SIZE} MiB, and {PROMISED_LINES} log lines a minute for each UID. "
        "No command may fail. "
        "Nothing is pinned to a CPU: the daemon, the attackers and the measured user share all CPUs."
    )
    return f"{markdown_table([*header, 'kept'], lines, left=2)}\n{paragraph(about)}\n"


def _line(variation: Variation, waits: Waits) -> list[str]:
    kept = "yes" if waits.keeps_the_promise else "**no**"
    if waits.failed:
        kept += " (" + ", ".join(f"{reason}: {count} x" for reason, count in waits.failed.items()) + ")"
    if waits.uncompleted:
        kept += f" (pykcmctl failed {len(waits.uncompleted)} x: {str(waits.uncompleted[0]).splitlines()[-1]})"
    times = [_times(waits, kind) for kind in ("held", "new", "klist")]
    log = f"{waits.lines} ({waits.most_lines})"
    commands = ", ".join(f"{command} {count}" for command, count in waits.done.items()) or "-"
    return [variation.kind, variation.name, *times, f"{waits.size:.0f} MiB", log, commands, kept]


def _times(waits: Waits, kind: str) -> str:
    seconds = waits.seconds[kind]
    if not seconds:
        return "-"
    figures = (waits.percentile(kind, 50), waits.percentile(kind, 99), max(seconds))
    return " / ".join(f"{each * 1000:.1f}" for each in figures)
