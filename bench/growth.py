"""How the cost of an operation, and of a start, grows with what is stored."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.load import Kind, run_load, run_start
from bench.paths import CACHE, PLOT
from bench.plot import Panel, plot
from bench.processes import say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.servers import Pykcm
from bench.templates import put_template

# What kcmload calls them.
_OPERATIONS = {"STORE": "storeat", "RETRIEVE": "retrieve", "list": "listc"}
_START = "start-up"

_QUICK_POINTS = 100
_OTHERS = 10  # credentials of a ccache, where it is not their number that varies


@dataclass(frozen=True, slots=True)
class _State:
    """What is stored; `used` are the credentials of the ccache that the operations are done on."""

    used: int = _OTHERS
    credentials: int = _OTHERS
    ccaches: int = 1
    uids: int = 1


@dataclass(frozen=True, slots=True)
class _Axis:
    title: str
    states: dict[int, _State]


_AXES = (
    _Axis(
        "credentials in the ccache",
        {n: _State(used=n, credentials=n) for n in (1, 10, 100, 1_000, 10_000)},
    ),
    _Axis("ccaches of the UID", {n: _State(ccaches=n) for n in (1, 10, 100, 1_000)}),
    # The others' are on the disk alone, so little of it is enough.
    _Axis("UIDs", {n: _State(credentials=1, uids=n) for n in (1, 10, 100, 1_000, 20_000)}),
)

# By operation, the seconds at each point.
_Curves = dict[str, list[float]]


def measure_growth(folder: Path, effort: Effort) -> str:
    """Draw the plot; returns the tables."""
    text = []
    panels = []
    for number, axis in enumerate(_AXES):
        points = [n for n in axis.states if not effort.is_quick or n <= _QUICK_POINTS]
        if os.geteuid() != 0 and any(axis.states[n].uids > 1 for n in points):
            text.append(f"Not as root: nothing was measured for {axis.title}.\n")
            continue
        own = folder / str(number)
        own.mkdir(mode=0o755)
        curves = _measure_axis(axis, points, own, effort)
        panels.append(Panel(axis.title, points, curves))
        text.append(_table(axis, points, curves))
    drawing = plot("pykcm: time against what is stored", panels)
    path = CACHE / PLOT.name if effort.is_quick else PLOT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawing)
    say(f"drawn in {path}")
    about = (
        f"[The plot](../docs/{PLOT.name}). Medians of {effort.rounds} rounds of {effort.seconds:g} s, "
        f"durability full; ccaches of {_OTHERS} credentials of 1,200 bytes where their number does not vary, "
        "and of 1 for the other UIDs. `list` is what klist does, on an open connection; `start-up` is from "
        "the exec of pykcmd with a socket handed over to the first reply that needs the UID's ccaches. "
        "MIT's client takes no reply over 10 MiB: more than that is listed one credential at a time."
    )
    return "\n".join([*text, paragraph(about)]) + "\n"


def _measure_axis(axis: _Axis, points: Sequence[int], folder: Path, effort: Effort) -> _Curves:
    states = [axis.states[n] for n in points]
    values: dict[str, list[list[float]]] = {name: [[] for _ in states] for name in (*_OPERATIONS, _START)}
    with contextlib.ExitStack() as at_end:
        # For each point one that keeps running, and one that is started again and again.
        running = [_server(folder / f"running-{n}", axis.states[n]) for n in points]
        started = [_server(folder / f"started-{n}", axis.states[n]) for n in points]
        for server in running:
            at_end.enter_context(server.running())
        for number in range(effort.rounds):
            say(f"{axis.title}: round {number + 1} of {effort.rounds}")
            for i, state in enumerate(states):
                for name, workload in _OPERATIONS.items():
                    load = run_load(running[i], Kind(workload, state.used), effort.seconds)
                    values[name][i].append(load.p50 / 1e6)
                values[_START][i].append(run_start(started[i], effort.seconds).p50 / 1e6)
    return {name: [median(rounds) for rounds in at_points] for name, at_points in values.items()}


def _server(folder: Path, state: _State) -> Pykcm:
    server = Pykcm(folder.name, folder)
    put_template(server, uids=state.uids, ccaches=state.ccaches, credentials=state.credentials)
    return server


def _table(axis: _Axis, points: Sequence[int], curves: _Curves) -> str:
    units = {name: (1e3, "ms") if name == _START else (1e6, "µs") for name in curves}
    header = [axis.title, *(f"{name}, {units[name][1]}" for name in curves)]
    lines = [
        [f"{n:,}", *(f"{curve[i] * units[name][0]:,.1f}" for name, curve in curves.items())]
        for i, n in enumerate(points)
    ]
    return markdown_table(header, lines, left=0)
