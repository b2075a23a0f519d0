"""A PostgreSQL server of the benchmark's own, and pykcmd on it."""

import asyncio
import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from bench.load import CREDENTIAL_SIZE
from bench.processes import TIMEOUT, BenchError
from bench.servers import Pykcm
from pykcm.store.postgresql.schema import create
from pykcm.store.postgresql.sealing import SharedKey

_KEY = bytes(range(32))
_ROLE = "pykcm"

_SETTINGS = "listen_addresses = ''\nmax_connections = 100\nshared_buffers = 128MB\n"


class Database:
    """The server, with durable commits; its socket and its data are in `folder`."""

    def __init__(self, folder: Path) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        found = shutil.which("initdb")
        if found is None and not programs:
            raise BenchError("shared was not measured: there is no PostgreSQL (Debian: postgresql)")
        self._bin = Path(found).resolve().parent if found else programs[-1]
        self.folder = folder
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o755)
        if self._user is not None:
            nobody = pwd.getpwnam(self._user)
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._run("initdb", "--username=admin", "--auth=trust", "--encoding=UTF8", "data")
        with (self.folder / "data/postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{self.folder}'\n{_SETTINGS}")
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-l", "log", "start")
        try:
            with psycopg.connect(self.conninfo("admin"), autocommit=True) as connection:
                connection.execute(f"CREATE ROLE {_ROLE} LOGIN")
                create(connection, SharedKey(_KEY).id, _ROLE)
            yield
        finally:
            self._run("pg_ctl", "-D", "data", "-w", "-s", "-m", "fast", "stop")

    def conninfo(self, role: str = _ROLE) -> str:
        return f"host={self.folder} user={role} dbname=postgres"

    def _run(self, program: str, *arguments: str) -> None:
        # The server must not keep a pipe of this process.
        with (self.folder / "output").open("ab") as output:
            done = subprocess.run(  # noqa: S603 - the benchmark builds all commands itself
                [self._bin / program, *arguments],
                check=False,
                cwd=self.folder,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=TIMEOUT * 4,
            )
        if done.returncode:
            text = (self.folder / "output").read_text()
            raise BenchError(f"{program} failed:\n{text[-2000:]}")

    def transactions(self) -> tuple[int, int]:
        """All transactions of hosts that have ended, and how many of them were commits of changes."""
        with psycopg.connect(self.conninfo("admin"), autocommit=True) as connection:
            # A backend counts its transactions when it ends.
            deadline = time.monotonic() + TIMEOUT
            while _number(connection, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pykcm'"):
                if time.monotonic() > deadline:
                    raise BenchError("PostgreSQL keeps connections of hosts that have ended")
                time.sleep(0.01)
            both = (
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            )
            return _number(connection, both), _number(connection, "SELECT count(*) FROM pykcm.commits")


def _number(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


class SharedPykcm(Pykcm):
    """pykcmd as one host of the shared store."""

    def __init__(self, name: str, folder: Path, database: Database, freshness: str = "strict") -> None:
        super().__init__(name, folder)
        key = folder / "key"
        key.touch(0o600)
        key.write_bytes(_KEY)
        with self._configuration.open("a") as file:
            file.write(
                f'store = "postgresql"\nfreshness = "{freshness}"\nkey_file = "{key}"\n'
                f'postgresql = "{database.conninfo()}"\n'
            )


Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_BARE_UID = 900_000

_FILL = "INSERT INTO pykcm.collections VALUES (%s, 1) ON CONFLICT DO NOTHING"
_LOOK_UP = "SELECT uid, version FROM pykcm.collections WHERE uid = ANY(%s)"


async def _look_up(connection: Connection) -> None:
    cursor = await connection.execute(_LOOK_UP, ([_BARE_UID],))
    await cursor.fetchall()


async def _transact(connection: Connection) -> None:
    """One transaction with the rows of a STORE, in one round trip."""
    async with connection.pipeline():
        await connection.execute(
            "UPDATE pykcm.collections SET version = version + 1 WHERE uid = %s", (_BARE_UID,)
        )
        await connection.execute("INSERT INTO pykcm.commits (id, made) VALUES (%s, true)", (os.urandom(16),))
        await connection.execute(
            "INSERT INTO pykcm.secrets (uid, ccache, item, position, sealed) VALUES (%s, %s, %s, 1, %s)",
            (_BARE_UID, bytes(16), os.urandom(16), os.urandom(CREDENTIAL_SIZE)),
        )


def bare(database: Database, seconds: float, *, writes: bool) -> float:
    """The median time of a bare round trip of psycopg in µs: a look-up of a version, or a transaction."""
    return asyncio.run(_time(database.conninfo(), seconds, _transact if writes else _look_up))


async def _time(conninfo: str, seconds: float, function: Callable[[Connection], Awaitable[None]]) -> float:
    times: list[float] = []
    async with await Connection.connect(conninfo, autocommit=True) as connection:
        await connection.execute(_FILL, (_BARE_UID,))
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            await function(connection)
            times.append(time.perf_counter() - begun)
    return median(times) * 1_000_000
