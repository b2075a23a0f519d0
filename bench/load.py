"""Runs of the load generator kcmload, and their results."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build import build
from bench.processes import TIMEOUT, BenchError, Server, environment, finish, on_one_cpu

CREDENTIAL_SIZE = 1200

_LACKS_THE_OPERATION = 3


class UnsupportedError(Exception):
    """The server lacks the operation."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of one run.

    Times are in µs, `rate` is operations a second, `bytes` is the total size of the credentials.
    """

    p50: float
    p99: float
    rate: float
    operations: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of kcmload. With `first_uid`, each connection has another UID."""

    workload: str
    credentials: int = 10
    connections: int = 1
    first_uid: int | None = None
    ccaches: int = 1
    uids: int = 1


def run_load(
    server: Server, load: LoadOptions, seconds: float = 0.0, *, echo: bool = False, alone: bool = True
) -> LoadResult:
    """Send requests to a running server; raises UnsupportedError, BenchError.

    `echo`: it is the echo server. `alone`: the server has no other clients.
    With one connection, server and load generator take turns, and are pinned to one CPU: on two CPUs, the
    sleep states of the idle one would change the figures. With several connections, or other clients, the
    kernel chooses the CPUs.
    """
    options = [
        *("-t", seconds, "-n", load.credentials, "-s", CREDENTIAL_SIZE, "-c", load.connections),
        *("-m", load.ccaches, "-U", load.uids),
        *(() if load.first_uid is None else ("-u", load.first_uid)),
        *(("-e",) if echo else ()),
    ]
    command = [str(build("kcmload")), *map(str, options), str(server.socket_path), load.workload]
    with on_one_cpu(server.pid) if load.connections == 1 and alone else contextlib.nullcontext():
        return _run(command)


def run_start(server: Server, seconds: float) -> LoadResult:
    """Start a server again and again, and time its first reply."""
    command = [str(build("kcmload")), "-t", str(seconds), str(server.socket_path), "start", "--"]
    return _run([*command, *server.command()])


def run_limit(name: str, file: Path, seconds: float) -> LoadResult:
    """Time bare writes with fdatasync; `name` is `append` or `overwrite`."""
    with on_one_cpu():
        return _run([build("limits"), name, file, str(CREDENTIAL_SIZE), str(seconds)])


def _run(command: Sequence[str | Path]) -> LoadResult:
    done = finish(command, env=environment(), timeout=TIMEOUT * 20)
    if done.returncode == _LACKS_THE_OPERATION:
        raise UnsupportedError
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise BenchError(f"{words}: exit status {done.returncode}\n{done.stderr.strip()}")
    results = dict(word.split("=", 1) for word in done.stdout.split())
    return LoadResult(
        p50=float(results["p50_us"]),
        p99=float(results["p99_us"]),
        rate=float(results["rate"]),
        operations=int(results["ops"]),
        bytes=int(results["bytes"]),
    )
