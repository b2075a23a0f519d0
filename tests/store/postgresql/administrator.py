"""An administrator of the shared store, who runs `pykcmctl store` for a host."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from pykcm.cli.main import cli
from pykcm.config import load_config
from pykcm.store.interface import StoreUnusableError
from pykcm.store.postgresql.opening import open_store
from tests.store.postgresql.server import PostgreSQL

RAW = bytes(range(32))
ROLE = "pykcm checks"


class Administrator:
    """Runs `pykcmctl store` for a host whose daemon has a role of its own."""

    def __init__(self, folder: Path, admin: str) -> None:
        self.admin = admin
        self.role = psycopg.conninfo.make_conninfo(admin, user=ROLE)
        self.key_file = folder / "key"
        self.config = folder / "pykcm.toml"
        self.give(self.key_file, RAW)
        self.configure(self.role)

    def configure(self, conninfo: str) -> None:
        self.config.write_text(
            f'store = "postgresql"\nkey_file = "{self.key_file}"\npostgresql = """{conninfo}"""\n'
        )

    @staticmethod
    def give(path: Path, key: bytes) -> None:
        path.write_bytes(key)
        path.chmod(0o600)

    def run(self, command: str, *options: str) -> Result:
        return CliRunner().invoke(cli, ["store", command, "--config", str(self.config), *options])

    def init(self) -> None:
        done = self.run("init", "--admin", self.admin, "--role", ROLE)
        assert done.exit_code == 0, done.output

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(statement.encode())

    def query(self, statement: str) -> list[Any]:
        with psycopg.connect(self.admin, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def failures(self, level: str = "FAILED") -> list[str]:
        """The lines of the check with this result; the exit status agrees."""
        done = self.run("check")
        lines = done.output.splitlines()
        assert done.exit_code == int(any(line.startswith("FAILED") for line in lines)), done.output
        return [line.partition(" ")[2].strip() for line in lines if line.startswith(level)]

    def refusal(self) -> str:
        """Why a daemon does not start."""
        with pytest.raises(StoreUnusableError) as raised:
            open_store(load_config(self.config))
        return str(raised.value)


@pytest.fixture
def administrator(postgresql: PostgreSQL, tmp_path: Path) -> Iterator[Administrator]:
    """A database without a schema, and a role without privileges."""
    admin = psycopg.conninfo.make_conninfo(postgresql.conninfo, dbname="checks")
    with psycopg.connect(postgresql.conninfo, autocommit=True) as connection:
        for statement in (
            "DROP DATABASE IF EXISTS checks WITH (FORCE)",
            f'DROP ROLE IF EXISTS "{ROLE}"',
            f'CREATE ROLE "{ROLE}" LOGIN',
            "CREATE DATABASE checks",
        ):
            connection.execute(statement.encode())
    yield Administrator(tmp_path, admin)
    with psycopg.connect(postgresql.conninfo, autocommit=True) as connection:
        connection.execute(b"DROP DATABASE checks WITH (FORCE)")
        connection.execute(f'DROP ROLE "{ROLE}"'.encode())
