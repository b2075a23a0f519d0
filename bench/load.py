"""The load generator's runs, and what they say."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build import build
from bench.processes import PATIENCE, BenchError, Server, environment, finish, on_one_cpu

CREDENTIAL_SIZE = 1200

_LACKS_THE_OPERATION = 3


class UnsupportedError(Exception):
    """The server lacks the operation."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run: times are in µs, `rate` is operations a second, `bytes` the credentials' sizes together."""

    p50: float
    p99: float
    rate: float
    operations: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What to do, as kcmload's options say it; `first_uid`: each connection is a UID of its own."""

    workload: str
    credentials: int = 10
    connections: int = 1
    first_uid: int | None = None
    ccaches: int = 1
    uids: int = 1


def run_load(
    server: Server, kind: Kind, seconds: float = 0.0, *, echo: bool = False, alone: bool = True
) -> Load:
    """Drive a server that runs; raises UnsupportedError, BenchError. `echo`: it is the echo server.

    With one connection, server and load take turns, and have one CPU: on two, whether and how deeply the
    other one sleeps would decide what is measured. With several, or where the server has other work
    (not `alone`), the kernel may do as it likes.
    """
    options = [
        *("-t", seconds, "-n", kind.credentials, "-s", CREDENTIAL_SIZE, "-c", kind.connections),
        *("-m", kind.ccaches, "-U", kind.uids),
        *(() if kind.first_uid is None else ("-u", kind.first_uid)),
        *(("-e",) if echo else ()),
    ]
    command = [str(build("kcmload")), *map(str, options), str(server.socket_path), kind.workload]
    with on_one_cpu(server.pid) if kind.connections == 1 and alone else contextlib.nullcontext():
        return _run(command)


def run_start(server: Server, seconds: float) -> Load:
    """Start a server again and again, and time its first reply."""
    load = [str(build("kcmload")), "-t", str(seconds), str(server.socket_path), "start", "--"]
    return _run([*load, *server.command()])


def run_limit(name: str, file: Path, seconds: float) -> Load:
    """Bare writes with fdatasync: `append` or `overwrite`."""
    with on_one_cpu():
        return _run([build("limits"), name, file, str(CREDENTIAL_SIZE), str(seconds)])


def _run(command: Sequence[str | Path]) -> Load:
    done = finish(command, env=environment(), timeout=PATIENCE * 20)
    if done.returncode == _LACKS_THE_OPERATION:
        raise UnsupportedError
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise BenchError(f"{words}: exit status {done.returncode}\n{done.stderr.strip()}")
    said = dict(word.split("=", 1) for word in done.stdout.split())
    return Load(
        p50=float(said["p50_us"]),
        p99=float(said["p99_us"]),
        rate=float(said["rate"]),
        operations=int(said["ops"]),
        bytes=int(said["bytes"]),
    )
