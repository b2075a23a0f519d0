"""The waits of one user while others store, on the unchanged disk and with slow syncs."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.load import CREDENTIAL_SIZE, LoadOptions, LoadResult, run_load
from bench.processes import BenchError, say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.servers import Pykcm
from bench.workloads import FIRST_UID

# Added to each sync, in seconds.
_SYNC_TIME = 0.02

# For the 99th percentile of the reader's waits, in µs.
_GOAL = 2000.0

_WRITERS = 16
_RETRIEVED = 20
_REPLACED = 100

# The writers go on this many seconds longer: the reader fills its ccache before it measures, and waits for
# at most two syncs for each credential.
_FILLING_SECONDS = 3.0

_READER, _FIRST_WRITER = FIRST_UID, FIRST_UID + 1

_STORED = {
    "nothing": None,
    "a credential each time": LoadOptions("store", 20, connections=_WRITERS, first_uid=_FIRST_WRITER),
    f"{_REPLACED} credentials each time": LoadOptions(
        "replace", _REPLACED, connections=_WRITERS, first_uid=_FIRST_WRITER
    ),
}


@dataclass(slots=True)
class _Case:
    """A speed of the disk and a load of the writers; for each round the figures of reader and writers."""

    sync_time: float
    stored: str
    reads: list[LoadResult] = field(default_factory=list)
    stores: list[LoadResult] = field(default_factory=list)


def measure_slow_disk(folder: Path, effort: Effort) -> str:
    """Measure and return the table; raises BenchError."""
    if os.geteuid() != 0:
        raise BenchError("slow-disk was not measured: only root can act as several users; run it as root")
    cases = [_Case(sync_time, stored) for sync_time in (0.0, _SYNC_TIME) for stored in _STORED]
    with contextlib.ExitStack() as at_end:
        servers = {}
        for sync_time in (0.0, _SYNC_TIME):
            server = Pykcm("pykcm", folder / f"pykcm-{sync_time:g}", sync_time=sync_time)
            servers[sync_time] = server
            at_end.enter_context(server.running())
        for number in range(effort.rounds):
            say(f"slow-disk: round {number + 1} of {effort.rounds}")
            for case in cases:
                _measure(servers[case.sync_time], case, effort.seconds)
    about = (
        f"RETRIEVE among {_RETRIEVED} credentials of {CREDENTIAL_SIZE:,} bytes over one connection, while "
        f"{_WRITERS} other UIDs store. Each of them stores again as soon as it has its reply. "
        f"{effort.rounds} rounds of {effort.seconds:g} s, durability full; medians of each round's p50 and "
        "p99. Nothing is pinned to a CPU: server, load generator and the measured user share all CPUs."
    )
    return f"{_table(cases)}\n{paragraph(about)}\n"


def _measure(server: Pykcm, case: _Case, seconds: float) -> None:
    retrieve = LoadOptions("retrieve", _RETRIEVED, first_uid=_READER)
    store = _STORED[case.stored]
    with ThreadPoolExecutor(1) as pool:
        if store is not None:
            storing = pool.submit(run_load, server, store, seconds + _FILLING_SECONDS, alone=False)
        case.reads.append(run_load(server, retrieve, seconds, alone=False))
        if store is not None:
            if storing.done():
                raise BenchError("the writers ended before the measurement did")
            case.stores.append(storing.result())


def _table(cases: list[_Case]) -> str:
    lines = []
    for case in cases:
        p50, p99 = median(load.p50 for load in case.reads), median(load.p99 for load in case.reads)
        disk = f"each sync {case.sync_time * 1000:g} ms longer" if case.sync_time else "unchanged"
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
    header = ["disk", "stored meanwhile", "p50", "p99", "goal", "met", "stores", "p50 of a store"]
    return markdown_table(header, lines, left=2)
