"""A PostgreSQL server of a test's own, in a temporary folder."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest

from pykcm.store.postgresql.schema import create
from pykcm.store.postgresql.sealing import SharedKey

# In Debian's packages the programs are not in PATH.
_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def bin_folder() -> Path | None:
    """The folder of initdb and postgres; None: PostgreSQL is not installed."""
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else next(iter(_FOLDERS), None)


class PostgreSQL:
    """Starts, stops and kills a server, whose data and socket are in `folder`. It does not run as root."""

    def __init__(self, folder: Path) -> None:
        found = bin_folder()
        assert found is not None
        self._bin = found
        self.folder = folder
        self._user = "nobody" if os.geteuid() == 0 else None
        folder.mkdir()
        if self._user:
            nobody = pwd.getpwnam(self._user)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._run("initdb", "--no-sync", "--username=admin", "--auth=trust", "--encoding=UTF8", "data")
        self.port = 5432
        (folder / "data/postgresql.conf").write_text(
            f"unix_socket_directories = '{folder}'\nlisten_addresses = ''\nfsync = off\n"
            "max_connections = 100\nshared_buffers = 16MB\n"
        )

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=admin dbname=postgres"

    def start(self) -> None:
        """Returns when it accepts connections."""
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-l", "log", "start")

    def stop(self, mode: str = "fast") -> None:
        """`mode`: smart, fast, or immediate, which is a crash."""
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._bin / program), *arguments]
        # It must not keep what pytest reads.
        with (self.folder / "output").open("ab") as output:
            done = subprocess.run(
                command,
                check=False,
                cwd=self.folder,
                user=self._user,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        assert done.returncode == 0, self._last_lines()

    def _last_lines(self) -> str:
        """The ends of the programs' output and of the server's log, for a failure."""
        files = [file for file in (self.folder / "output", self.folder / "log") if file.exists()]
        return "".join(line for file in files for line in file.read_text().splitlines(keepends=True)[-20:])


class Relay:
    """Passes bytes between clients and the server, on a socket of its own.

    `turns`: how often bytes of a client came after bytes of the server: the round trips of one connection.
    """

    def __init__(self, conninfo: str) -> None:
        parameters = psycopg.conninfo.conninfo_to_dict(conninfo)
        self._target = f"{parameters['host']}/.s.PGSQL.{parameters.get('port', 5432)}"
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.conninfo = ""
        self.turns = 0
        self._was_client = False

    @classmethod
    @asynccontextmanager
    async def to(cls, conninfo: str) -> AsyncIterator["Relay"]:
        relay = cls(conninfo)
        server = await asyncio.start_server(relay._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        relay.conninfo = psycopg.conninfo.make_conninfo(conninfo, host="127.0.0.1", port=port)
        try:
            yield relay
        finally:
            server.close()
            for task in relay._tasks:
                task.cancel()

    def hold(self) -> None:
        """Pass nothing any more; connections stay open."""
        self._open.clear()

    def cut(self) -> None:
        """End all connections without a word."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, server_writer, is_client=True))
                group.create_task(self._pass(server_reader, writer, is_client=False))
        except* OSError:
            pass
        finally:
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._open.wait()
                self.turns += is_client and not self._was_client
                self._was_client = is_client
                writer.write(data)
        finally:
            writer.close()


SHARED_KEY = SharedKey(bytes(range(32)))


@contextmanager
def running_server() -> Iterator[PostgreSQL]:
    """A server that runs, or the test is skipped."""
    if bin_folder() is None:
        pytest.skip("there is no PostgreSQL (Debian: postgresql)")
    # Not in pytest's folder, to which the server's user has no way.
    with tempfile.TemporaryDirectory(prefix="pykcm-postgresql-") as folder:
        Path(folder).chmod(0o711)
        server = PostgreSQL(Path(folder, "server"))
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


@contextmanager
def running_database() -> Iterator[str]:
    """The connection string of a database with the schema, on a server of its own."""
    with running_server() as server:
        with psycopg.connect(server.conninfo) as connection:
            create(connection, SHARED_KEY.id, None)
        yield server.conninfo


def empty_database(conninfo: str) -> None:
    """Remove all ccaches: faster than a new database, or than TRUNCATE, which makes new files."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for table in ("secrets", "collections", "commits"):
            connection.execute(f"DELETE FROM pykcm.{table}".encode())
