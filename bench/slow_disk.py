"""The waits of one user while others store, on the disk as it is and with slow syncs."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.load import CREDENTIAL_SIZE, Kind, Load, run_load
from bench.processes import BenchError, say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.servers import Pykcm
from bench.workloads import FIRST_UID

# Of each sync, in seconds.
_SLOW = 0.02

# Of the 99th percentile of the user who reads, in µs.
_GOAL = 2000.0

_WRITERS = 16
_RETRIEVED = 20
_REPLACED = 100

# Seconds that it takes to store what is retrieved: each credential waits for two syncs at most.
_FILLING = 3.0

_READER, _FIRST_WRITER = FIRST_UID, FIRST_UID + 1

_STORED = {
    "nothing": None,
    "a credential each time": Kind("store", 20, connections=_WRITERS, first_uid=_FIRST_WRITER),
    f"{_REPLACED} credentials each time": Kind(
        "replace", _REPLACED, connections=_WRITERS, first_uid=_FIRST_WRITER
    ),
}


@dataclass(slots=True)
class _Case:
    """The disk, and the load of the others; for each round the reader's waits, and how much was stored."""

    sync_time: float
    stored: str
    reads: list[Load] = field(default_factory=list)
    stores: list[Load] = field(default_factory=list)


def measure_slow_disk(folder: Path, effort: Effort) -> str:
    """The table; raises BenchError."""
    if os.geteuid() != 0:
        raise BenchError("slow-disk: nothing was measured: only root can be several users")
    cases = [_Case(sync_time, stored) for sync_time in (0.0, _SLOW) for stored in _STORED]
    with contextlib.ExitStack() as at_end:
        servers = {}
        for sync_time in (0.0, _SLOW):
            server = Pykcm("pykcm", folder / f"pykcm-{sync_time:g}", sync_time=sync_time)
            servers[sync_time] = server
            at_end.enter_context(server.running())
        for number in range(effort.rounds):
            say(f"slow-disk: round {number + 1} of {effort.rounds}")
            for case in cases:
                _measure(servers[case.sync_time], case, effort.seconds)
    about = (
        f"RETRIEVE among {_RETRIEVED} credentials of {CREDENTIAL_SIZE:,} bytes over one connection, while "
        f"{_WRITERS} other UIDs store, each again as soon as it is answered. "
        f"{effort.rounds} rounds of {effort.seconds:g} s, durability full; medians of each round's p50 and "
        "p99. Nothing is pinned to a CPU: server, load and the user that is measured share all there are."
    )
    return f"{_table(cases)}\n{paragraph(about)}\n"


def _measure(server: Pykcm, case: _Case, seconds: float) -> None:
    retrieve = Kind("retrieve", _RETRIEVED, first_uid=_READER)
    store = _STORED[case.stored]
    with ThreadPoolExecutor(1) as pool:
        if store is not None:
            storing = pool.submit(run_load, server, store, seconds + _FILLING, alone=False)
        case.reads.append(run_load(server, retrieve, seconds, alone=False))
        if store is not None:
            if storing.done():
                raise BenchError("the storing ended before the measuring did")
            case.stores.append(storing.result())


def _table(cases: list[_Case]) -> str:
    lines = []
    for case in cases:
        p50, p99 = median(load.p50 for load in case.reads), median(load.p99 for load in case.reads)
        disk = f"each sync {case.sync_time * 1000:g} ms longer" if case.sync_time else "as it is"
        line = [disk, case.stored, f"{p50:,.1f} µs", f"{p99:,.1f} µs"]
        line += (
            [f"at most {_GOAL:,.0f} µs", "yes" if p99 <= _GOAL else "**no**"] if case.sync_time else ["", ""]
        )
        if case.stores:
            line += [f"{median(load.rate for load in case.stores):,.0f} /s"]
            line += [f"{median(load.p50 for load in case.stores) / 1000:,.1f} ms"]
        else:
            line += ["", ""]
        lines.append(line)
    header = ["disk", "stored meanwhile", "p50", "p99", "goal", "met", "stored", "p50 of storing"]
    return markdown_table(header, lines, left=2)
