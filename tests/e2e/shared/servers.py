"""PostgreSQL servers that hosts reach over TCP: killed, started again, replicated and promoted."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pykcm.store.postgresql.schema import create
from pykcm.store.postgresql.sealing import SharedKey
from tests.disk.mounts import MemoryDisk
from tests.e2e.waiting import wait_until
from tests.ports import free_port
from tests.store.postgresql.server import PostgreSQL

ROLE = "pykcm"
DATABASE = "pykcm"

_REPLICATION = """
wal_level = replica
synchronous_standby_names = '*'
wal_retrieve_retry_interval = 100ms
hot_standby_feedback = on
"""


class Server(PostgreSQL):
    """A server on a Unix socket and on a free port of 127.0.0.1.

    `is_replicated`: it commits nothing without a standby.
    """

    def __init__(self, folder: Path, *, is_replicated: bool = False) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._is_started = False
        self._configure(
            f"listen_addresses = '127.0.0.1'\nport = {self.port}\n" + _REPLICATION * is_replicated
        )

    def _configure(self, settings: str) -> None:
        """Add settings, of which the last one counts."""
        with (self.folder / "data/postgresql.conf").open("a") as file:
            file.write(settings)

    @property
    def conninfo(self) -> str:
        """The administrator's, by the Unix socket."""
        return f"host={self.folder} port={self.port} user=admin dbname=postgres"

    def query(self, query: str, dbname: str = "postgres") -> list[tuple[object, ...]]:
        """The rows of a query by the administrator, which is a transaction of its own."""
        conninfo = psycopg.conninfo.make_conninfo(self.conninfo, dbname=dbname)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def set(self, name: str, value: str) -> None:
        """Change a setting; returns when every session of the hosts' has it."""
        self.query(f"ALTER SYSTEM SET {name} = {value}")
        self.query("SELECT pg_reload_conf()")
        # Each session takes it over between two statements.
        wait_until(lambda: self.query(f"SHOW {name}") == [(value,)])

    @contextmanager
    def transaction(self, query: str) -> Iterator[None]:
        """A transaction of the administrator in the hosts' database, which is open for a while."""
        with psycopg.connect(psycopg.conninfo.make_conninfo(self.conninfo, dbname=DATABASE)) as connection:
            connection.execute(query.encode())
            yield

    def make_database(self, key: SharedKey, tablespace: str = "pg_default") -> None:
        """Make the hosts' database with the schema, and their role."""
        self.query(f"CREATE ROLE {ROLE} LOGIN")
        self.query(f"CREATE DATABASE {DATABASE} TABLESPACE {tablespace}")
        with psycopg.connect(psycopg.conninfo.make_conninfo(self.conninfo, dbname=DATABASE)) as connection:
            create(connection, key.id, ROLE)

    def small_tablespace(self, folder: Path) -> MemoryDisk:
        """Make a tablespace `small` on a small disk that is mounted here."""
        disk = MemoryDisk(folder, "16m")
        place = folder / "tablespace"
        place.mkdir()
        if self._user:
            shutil.chown(place, self._user)
        self.query(f"CREATE TABLESPACE small LOCATION '{place}'")
        return disk

    def small_wal(self, folder: Path) -> MemoryDisk:
        """Put the write-ahead log on a small disk that is mounted here; the server has not started yet.

        When the disk is full, the server crashes. It then stays down, as an administrator finds it.
        """
        disk = MemoryDisk(folder, "32m")
        self._run("pg_resetwal", "--wal-segsize=1", "data")
        self._configure("min_wal_size = 2MB\nmax_wal_size = 8MB\nrestart_after_crash = off\n")
        wal = folder / "wal"
        shutil.move(self.folder / "data/pg_wal", wal)
        for path in [wal, *wal.rglob("*")]:
            if self._user:
                shutil.chown(path, self._user)
        (self.folder / "data/pg_wal").symlink_to(wal)
        return disk

    def await_end(self) -> None:
        """Return when the server has ended by itself."""
        wait_until(lambda: not (self.folder / "data/postmaster.pid").exists())
        self._is_started = False

    def start(self) -> None:
        super().start()
        self._is_started = True

    def stop(self, mode: str = "fast") -> None:
        super().stop(mode)
        self._is_started = False

    def kill(self) -> None:
        """SIGKILL the postmaster; returns when its processes have ended."""
        postmaster = int((self.folder / "data/postmaster.pid").read_text().split()[0])
        # It makes no process more while these are listed.
        os.kill(postmaster, signal.SIGSTOP)
        wait_until(lambda: "State:\tT" in Path(f"/proc/{postmaster}/status").read_text())
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        os.kill(postmaster, signal.SIGKILL)
        wait_until(
            lambda: not any(Path("/proc", pid, "exe").exists() for pid in [str(postmaster), *children])
        )
        # Until its parent has noticed its end, it counts as a server that runs.
        (self.folder / "data/postmaster.pid").unlink()
        (self.folder / f".s.PGSQL.{self.port}.lock").unlink()
        self._is_started = False

    def end(self) -> None:
        """Kill it if it still runs, at the end of a test."""
        if self._is_started:
            self.kill()

    # Replication

    def copy_from(self, primary: "Server") -> None:
        """Become a standby of this server; what was here is removed."""
        shutil.rmtree(self.folder / "data")
        self._run(
            *("pg_basebackup", "-D", "data", "-R", "--checkpoint=fast", "--no-sync", "-d"),
            f"host={primary.folder} port={primary.port} user=admin application_name=standby",
        )
        self._configure(f"unix_socket_directories = '{self.folder}'\nport = {self.port}\n")

    def await_standby(self) -> None:
        """Return when a standby has all, and each commit waits for it."""
        wait_until(
            lambda: self.query(
                "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
            )
        )

    def commit_without_standby(self) -> None:
        """Wait for no standby any more, from its next start or its promotion on."""
        self._configure("synchronous_standby_names = ''\n")
        if self._is_started:
            self._run("pg_ctl", "-D", "data", "-s", "reload")

    def promote(self) -> None:
        """Returns when it accepts changes."""
        self._run("pg_ctl", "-D", "data", "-w", "-s", "promote")
