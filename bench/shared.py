"""Hosts that share a store on PostgreSQL: their latency, throughput, and transactions for each operation."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from bench.database import Database, SharedPykcm, bare
from bench.load import CREDENTIAL_SIZE, LoadOptions, run_load
from bench.processes import BenchError, say
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.servers import Pykcm
from bench.workloads import FIRST_UID

# By workload: its title, its load, and the largest ratio to bare round trips.
_WORKLOADS: list[tuple[str, LoadOptions, float | None]] = [
    ("ping", LoadOptions("ping"), None),
    ("list of 20", LoadOptions("list", 20), 1.5),
    ("retrieve in 20", LoadOptions("retrieve", 20), None),
    ("store", LoadOptions("store", 20), 1.3),
    ("kinit", LoadOptions("kinit"), None),
]

_HOSTS = (1, 2, 4)
_CONNECTIONS = 8

_EMBEDDED, _STRICT, _NOTIFIED = "embedded", "strict", "notified"


def measure_shared(folder: Path, effort: Effort) -> str:
    """Measure and return the tables; raises BenchError."""
    if os.geteuid() != 0:
        raise BenchError("shared was not measured: only root can act as several users; run it as root")
    database = Database(folder / "postgresql")
    with database.running():
        latency = _latency(folder, effort, database)
        throughput = _throughput(folder, effort, database)
    about = (
        f"PostgreSQL on the same machine, reached by its Unix socket, with durable commits. Credentials of "
        f"{CREDENTIAL_SIZE:,} bytes; {effort.rounds} rounds of {effort.seconds:g} s; medians of each round's "
        "p50. `look-ups` and `commits`: the database's transactions for each operation, with strict "
        "freshness; each is one round trip. `bare`: as many look-ups of a version, and transactions with the "
        "rows of one STORE, by psycopg alone. The ratio is strict to bare."
    )
    hosts = (
        f"Hosts on one database, on this machine. Each has {_CONNECTIONS} connections of as many UIDs, which "
        "store or retrieve as fast as they can. Sum of all hosts. Clients, hosts and database share the "
        f"machine's {os.cpu_count()} cores, which limit the sum."
    )
    return f"{latency}\n{paragraph(about)}\n\n{throughput}\n{paragraph(hosts)}\n"


def _latency(folder: Path, effort: Effort, database: Database) -> str:
    times: dict[tuple[str, str], list[float]] = {}
    look_ups: list[float] = []
    transactions: list[float] = []
    servers = {
        _EMBEDDED: Pykcm("pykcm", folder / "embedded"),
        _STRICT: SharedPykcm("strict", folder / "strict", database),
        _NOTIFIED: SharedPykcm("notified", folder / "notified", database, _NOTIFIED),
    }
    with contextlib.ExitStack() as at_end:
        for name in (_EMBEDDED, _STRICT):
            at_end.enter_context(servers[name].running())
        for number in range(effort.rounds):
            say(f"shared: round {number + 1} of {effort.rounds}")
            for title, load, _ in _WORKLOADS:
                for name in (_EMBEDDED, _STRICT):
                    result = run_load(servers[name], load, effort.seconds)
                    times.setdefault((title, name), []).append(result.p50)
            look_ups.append(bare(database, effort.seconds, writes=False))
            transactions.append(bare(database, effort.seconds, writes=True))
    # A host that listens makes the others notify.
    with servers[_NOTIFIED].running():
        for _ in range(effort.rounds):
            for title, load, _ in _WORKLOADS:
                result = run_load(servers[_NOTIFIED], load, effort.seconds)
                times.setdefault((title, _NOTIFIED), []).append(result.p50)
    lines = []
    for title, load, goal in _WORKLOADS:
        embedded, strict, notified = (median(times[title, name]) for name in servers)
        reads, commits = _transactions(folder / f"count-{load.workload}", database, load, effort)
        limit = round(reads) * median(look_ups) + round(commits) * median(transactions)
        ratio = strict / limit if limit else 0.0
        lines.append(
            [
                title,
                *(f"{value:,.0f} µs" for value in (embedded, strict, notified)),
                f"{reads:.1f}",
                f"{commits:.1f}",
                f"{limit:,.0f} µs" if limit else "",
                f"{ratio:.2f}" if limit else "",
                "" if goal is None else f"at most {goal:g}",
                "" if goal is None else "yes" if ratio <= goal else "**no**",
            ]
        )
    header = [
        "operation",
        "embedded",
        "strict",
        "notified",
        "look-ups",
        "commits",
        "bare",
        "ratio",
        "goal",
        "met",
    ]
    return markdown_table(header, lines)


def _transactions(folder: Path, database: Database, load: LoadOptions, effort: Effort) -> tuple[float, float]:
    """The look-ups and the commits of one operation, without those of the start and the filling."""
    server = SharedPykcm("count", folder, database)
    runs = []
    for seconds in (effort.seconds, effort.seconds * 3):
        all_before, commits_before = database.transactions()
        with server.running():
            operations = run_load(server, load, seconds).operations
        all_after, commits_after = database.transactions()
        runs.append((operations, all_after - all_before, commits_after - commits_before))
    operations, both, commits = (second - first for first, second in zip(*runs, strict=True))
    return max(0.0, (both - commits) / operations), max(0.0, commits / operations)


def _throughput(folder: Path, effort: Effort, database: Database) -> str:
    lines = []
    for number in _HOSTS:
        hosts = [SharedPykcm(f"host{each}", folder / f"{number}-{each}", database) for each in range(number)]
        with contextlib.ExitStack() as at_end:
            for host in hosts:
                at_end.enter_context(host.running())
            cells = [_sum(hosts, workload, effort) for workload in ("store", "retrieve")]
        lines.append([str(number), *(f"{cell:,.0f} /s" for cell in cells)])
    return markdown_table(["hosts", "store", "retrieve"], lines, left=0)


def _sum(hosts: list[SharedPykcm], workload: str, effort: Effort) -> float:
    """Operations a second of all hosts together, the median over the rounds."""
    loads = [
        LoadOptions(workload, 20, connections=_CONNECTIONS, first_uid=FIRST_UID + number * 100)
        for number in range(len(hosts))
    ]
    rates = []
    with ThreadPoolExecutor(len(hosts)) as threads:
        for _ in range(effort.rounds):
            runs = [
                threads.submit(run_load, host, load, effort.seconds, alone=False)
                for host, load in zip(hosts, loads, strict=True)
            ]
            rates.append(sum(run.result().rate for run in runs))
    return median(rates)
