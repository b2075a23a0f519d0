"""The growth of the cost of operations, and of the daemon's start, with the amount of stored data."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.load import LoadOptions, run_load, run_start
from bench.paths import CACHE, PLOT
from bench.plot import Panel, plot
from bench.processes import say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.servers import Pykcm
from bench.templates import install_template

# By operation: the workload of kcmload.
_OPERATIONS = {"STORE": "storeat", "RETRIEVE": "retrieve", "list": "listc"}
_START = "start-up"

_QUICK_POINTS = 100
_USUAL_CREDENTIALS = 10  # in a ccache, where the number of credentials does not vary


@dataclass(frozen=True, slots=True)
class _State:
    """The amount of stored data.

    `measured_credentials` are in the ccache that the operations use, `credentials` in every other ccache.
    """

    measured_credentials: int = _USUAL_CREDENTIALS
    credentials: int = _USUAL_CREDENTIALS
    ccaches: int = 1
    uids: int = 1


@dataclass(frozen=True, slots=True)
class _Axis:
    title: str
    states: dict[int, _State]


_AXES = (
    _Axis(
        "credentials in the ccache",
        {n: _State(measured_credentials=n, credentials=n) for n in (1, 10, 100, 1_000, 10_000)},
    ),
    _Axis("ccaches of the UID", {n: _State(ccaches=n) for n in (1, 10, 100, 1_000)}),
    # The daemon does not read the other UIDs' credentials. One for each is enough.
    _Axis("UIDs", {n: _State(credentials=1, uids=n) for n in (1, 10, 100, 1_000, 20_000)}),
)

# By operation: the seconds at each point.
_Curves = dict[str, list[float]]


def measure_growth(folder: Path, effort: Effort) -> str:
    """Measure, draw the plot and return the tables."""
    text = []
    panels = []
    for number, axis in enumerate(_AXES):
        points = [n for n in axis.states if not effort.is_quick or n <= _QUICK_POINTS]
        if os.geteuid() != 0 and any(axis.states[n].uids > 1 for n in points):
            text.append(f"{axis.title} was not measured: the benchmark did not run as root.\n")
            continue
        axis_folder = folder / str(number)
        axis_folder.mkdir(mode=0o755)
        curves = _measure_axis(axis, points, axis_folder, effort)
        panels.append(Panel(axis.title, points, curves))
        text.append(_table(axis, points, curves))
    drawing = plot("pykcm: time by amount of stored data", panels)
    path = CACHE / PLOT.name if effort.is_quick else PLOT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawing)
    say(f"the plot is in {path}")
    about = (
        f"[The plot](../docs/{PLOT.name}). Medians of {effort.rounds} rounds of {effort.seconds:g} s, "
        f"durability full. A ccache has {_USUAL_CREDENTIALS} credentials of 1,200 bytes where their number "
        "does not vary; those of the other UIDs have 1. `list` makes the requests of klist on an open "
        "connection. `start-up` is the time from the exec of pykcmd with an inherited socket to the first "
        "reply that needs the UID's ccaches. "
        "MIT's client accepts replies of at most 10 MiB, and lists larger ccaches one credential at a time."
    )
    return "\n".join([*text, paragraph(about)]) + "\n"


def _measure_axis(axis: _Axis, points: Sequence[int], folder: Path, effort: Effort) -> _Curves:
    states = [axis.states[n] for n in points]
    values: dict[str, list[list[float]]] = {name: [[] for _ in states] for name in (*_OPERATIONS, _START)}
    with contextlib.ExitStack() as at_end:
        # For each point: a server that keeps running, and one that is started again and again.
        running = [_server(folder / f"running-{n}", axis.states[n]) for n in points]
        started = [_server(folder / f"started-{n}", axis.states[n]) for n in points]
        for server in running:
            at_end.enter_context(server.running())
        for number in range(effort.rounds):
            say(f"{axis.title}: round {number + 1} of {effort.rounds}")
            for i, state in enumerate(states):
                for name, workload in _OPERATIONS.items():
                    options = LoadOptions(workload, state.measured_credentials)
                    load = run_load(running[i], options, effort.seconds)
                    values[name][i].append(load.p50 / 1e6)
                values[_START][i].append(run_start(started[i], effort.seconds).p50 / 1e6)
    return {name: [median(rounds) for rounds in at_points] for name, at_points in values.items()}


def _server(folder: Path, state: _State) -> Pykcm:
    server = Pykcm(folder.name, folder)
    install_template(server, uids=state.uids, ccaches=state.ccaches, credentials=state.credentials)
    return server


def _table(axis: _Axis, points: Sequence[int], curves: _Curves) -> str:
    units = {name: (1e3, "ms") if name == _START else (1e6, "µs") for name in curves}
    header = [axis.title, *(f"{name}, {units[name][1]}" for name in curves)]
    lines = [
        [f"{n:,}", *(f"{curve[i] * units[name][0]:,.1f}" for name, curve in curves.items())]
        for i, n in enumerate(points)
    ]
    return markdown_table(header, lines, left=0)
