"""The waits of one user while another one floods the daemon."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.build import build
from bench.load import LoadOptions, LoadResult, run_load
from bench.processes import TIMEOUT, BenchError, Server, environment, say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.servers import Pykcm
from bench.workloads import FIRST_UID

_GOAL = 20.0

_CONNECTIONS = 200
_LISTED = 500
_STORED_SIZE = 60_000

# By letters of flood.c's kinds.
_FLOODS = {
    "": "none",
    "slh": "STORE, GET_CRED_LIST and halves of requests",
    "s": "STORE",
    "l": "GET_CRED_LIST",
    "p": "GET_PRINCIPAL",
    "h": "halves of requests",
}

# The flood lasts this much longer than the measurement, whose preparation takes time.
_PREPARATION_SECONDS = 1.0

_PINGING, _FLOODING = FIRST_UID, FIRST_UID + 1


@dataclass(slots=True)
class _Flood:
    """For each round: the other user's figures, and the number of replies to the flood."""

    loads: list[LoadResult] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)

    @property
    def p99(self) -> list[float]:
        return [load.p99 for load in self.loads]


def measure_fairness(folder: Path, effort: Effort) -> str:
    """Measure and return the table; raises BenchError."""
    if os.geteuid() != 0:
        raise BenchError("fairness was not measured: only root can act as two users; run it as root")
    floods = {kinds: _Flood() for kinds in _FLOODS}
    server = Pykcm("pykcm", folder / "pykcm")
    with server.running():
        for number in range(effort.rounds):
            say(f"fairness: round {number + 1} of {effort.rounds}")
            for kinds, flood in floods.items():
                _measure(server, kinds, flood, effort.seconds)
    about = (
        f"GET_PRINCIPAL of one UID over one connection, while another UID floods over {_CONNECTIONS} "
        f"connections. The flood sends STOREs of {_STORED_SIZE:,} bytes, GET_CRED_LISTs of {_LISTED} "
        "credentials of 1,200 bytes, GET_PRINCIPALs, or first halves of STOREs that it never completes. "
        "A client of the flood reads a reply before it sends the next request. "
        f"{effort.rounds} rounds of {effort.seconds:g} s, durability full; medians of each round's p50 and "
        "p99. `rounds` is the smallest and the largest ratio of a round. Nothing is pinned to a CPU: server, "
        "flood and the measured user share all CPUs."
    )
    return f"{_table(floods)}\n{paragraph(about)}\n"


def _measure(server: Server, kinds: str, flood: _Flood, seconds: float) -> None:
    with _flooding(server, kinds, flood, seconds) if kinds else contextlib.nullcontext():
        flood.loads.append(run_load(server, LoadOptions("ping", first_uid=_PINGING), seconds, alone=False))


@contextlib.contextmanager
def _flooding(server: Server, kinds: str, flood: _Flood, seconds: float) -> Iterator[None]:
    """Flood the server until the end of the `with` block."""
    duration = seconds + _PREPARATION_SECONDS
    options = ["-t", duration, "-c", _CONNECTIONS, "-k", kinds, "-u", _FLOODING, "-n", _LISTED]
    process = subprocess.Popen(  # noqa: S603 - the benchmark builds all commands itself
        [str(build("flood")), *map(str, options), "-s", str(_STORED_SIZE), str(server.socket_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    try:
        assert process.stdout is not None
        # It prints the first line when the flood begins.
        if process.stdout.readline():
            yield
            if process.poll() is not None:
                raise BenchError("the flood ended before the measurement did")
        output, errors = process.communicate(timeout=TIMEOUT)
        if process.returncode or not output:
            raise BenchError(f"flood: exit status {process.returncode}\n{errors.strip()}")
    finally:
        process.kill()
        process.communicate()
    answers = dict(word.split("=", 1) for word in output.split())
    flood.answered.append(sum(int(answers[kind]) for kind in ("stores", "lists", "pings")) / duration)


def _table(floods: dict[str, _Flood]) -> str:
    alone = floods[""].p99
    lines = []
    for kinds, flood in floods.items():
        p50 = median(load.p50 for load in flood.loads)
        line = [_FLOODS[kinds], f"{p50:,.1f} µs", f"{median(flood.p99):,.1f} µs"]
        if kinds:
            ratios = [disturbed / quiet for disturbed, quiet in zip(flood.p99, alone, strict=True)]
            ratio = median(flood.p99) / median(alone)
            line += [
                f"{ratio:.1f}",
                f"{min(ratios):.1f}-{max(ratios):.1f}",
                f"at most {_GOAL:g} x",
                "yes" if ratio <= _GOAL else "**no**",
                f"{median(flood.answered):,.0f} /s",
            ]
        else:
            line += [""] * 5
        lines.append(line)
    header = ["flood", "p50", "p99", "ratio of p99", "rounds", "goal", "met", "replies to the flood"]
    return markdown_table(header, lines)
