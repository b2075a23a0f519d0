"""Measurement of all workloads on all servers, interleaved in rounds."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.load import LoadResult, UnsupportedError, run_limit, run_load, run_start
from bench.processes import BenchError, Server, say
from bench.resources import MIB, idle_size, measure_resources
from bench.servers import Echo, Pykcm
from bench.templates import install_template
from bench.workloads import (
    IDLE,
    PYKCM_MANY,
    PYKCM_NORMAL,
    RESOURCES,
    Figures,
    Workload,
    workloads,
)
from pykcm.client import KcmClient

# For the start with 100,000 ccaches.
_CCACHES_OF_A_UID = 5


@dataclass(frozen=True, slots=True)
class Effort:
    """The amount of measurement: `only` are prefixes of workloads' keys, `without` names of peers."""

    rounds: int = 7
    seconds: float = 1.5
    stored_ccaches: int = 100_000
    credential_bytes: int = 20_000_000
    is_quick: bool = False
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def wants(self, workload: Workload) -> bool:
        return not self.only or workload.key.startswith(self.only)


FULL = Effort()
QUICK = Effort(rounds=2, seconds=0.3, stored_ccaches=2_000, credential_bytes=2_000_000, is_quick=True)


def measure(folder: Path, effort: Effort, notes: list[str]) -> tuple[list[Workload], Figures]:
    """Return the rows and their figures; adds to `notes` why a figure is missing."""
    is_root = os.geteuid() == 0
    rows = [row for row in workloads(effort.stored_ccaches) if effort.wants(row)]
    if not is_root and any(row.needs_root for row in rows):
        rows = [row for row in rows if not row.needs_root]
        notes.append("Workloads of several UIDs were not measured: the benchmark did not run as root.")
    figures = Figures()
    with contextlib.ExitStack() as at_end:
        names = [server for row in rows for server in row.servers]
        if effort.wants(IDLE):
            names += peers.PROGRAMS
        runs = {
            name: at_end.enter_context(_server(name, folder, effort, figures, notes)) for name in set(names)
        }
        for number in range(effort.rounds):
            say(f"round {number + 1} of {effort.rounds}")
            for row in rows:
                _measure_row(row, runs, effort, figures)
    resources = [row for row in RESOURCES if effort.wants(row)]
    if resources:
        say("memory and disk")
        measure_resources(folder / "resources", figures, effort.credential_bytes, is_root=is_root)
    return rows + resources, figures


# Measures one workload; returns None where the server is not available.
_Run = Callable[[Workload, float], LoadResult | None]


def _measure_row(row: Workload, runs: dict[str, _Run], effort: Effort, figures: Figures) -> None:
    for server in row.servers:
        try:
            load = runs[server](row, effort.seconds)
        except UnsupportedError:
            continue
        except BenchError as error:
            raise BenchError(f"{row.title}, {server}: {error}") from error
        if load is not None:
            value = {"µs": load.p50, "ms": load.p50 / 1000, "/s": load.rate}[row.unit]
            figures.add(row.key, server, value)


@contextlib.contextmanager
def _server(name: str, folder: Path, effort: Effort, figures: Figures, notes: list[str]) -> Iterator[_Run]:
    """Prepare a server, and yield the function that measures on it."""
    server_folder = folder / name.replace(" ", "-")
    match name:
        case "append" | "overwrite":
            yield lambda _, seconds: run_limit(name, server_folder, seconds)
        case "pykcm empty" | "pykcm many":
            server = Pykcm(name, server_folder)
            if name == PYKCM_MANY:
                uids = effort.stored_ccaches // _CCACHES_OF_A_UID
                install_template(server, uids=uids, ccaches=_CCACHES_OF_A_UID)
            yield lambda _, seconds: run_start(server, seconds)
        case "heimdal" | "sssd":
            reason = "it was left out" if name in effort.without else peers.obstacle(name)
            if reason:
                notes.append(f"{peers.TITLES[name]} was not measured: {reason}.")
                say(notes[-1])
                yield lambda _, __: None
                return
            with _running(peers.make(name, server_folder), figures) as run:
                yield run
        case "echo":
            with _running(Echo(server_folder), figures, echo=True) as run:
                yield run
        case _:
            durability = "normal" if name == PYKCM_NORMAL else "full"
            with _running(Pykcm(name, server_folder, durability), figures) as run:
                yield run


@contextlib.contextmanager
def _running(server: Server, figures: Figures, *, echo: bool = False) -> Iterator[_Run]:
    def run(row: Workload, seconds: float) -> LoadResult:
        assert row.load is not None
        return run_load(server, row.load, seconds, echo=echo)

    with server.running():
        # measure_resources measures pykcm's idle size, in another process.
        if isinstance(server, peers.Peer):
            # Not NOOP: the peers' replies to it have no code, and the client refuses them.
            figures.add(IDLE.key, server.name, idle_size(server, KcmClient.get_default_cache) / MIB)
        yield run
