"""A PostgreSQL server for the session, and a store of a test's own on it."""

from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest

from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.schema import create
from pykcm.store.postgresql.sealing import Sealer, SharedKey
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.store.postgresql.server import SHARED_KEY, PostgreSQL, running_server

KEY = SHARED_KEY

OpenStore = Callable[..., PostgreSQLStore]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server that runs."""
    with running_server() as server:
        yield server


@pytest.fixture
def conninfo(postgresql: PostgreSQL) -> str:
    """A database of the test's own, with the schema."""
    name = "test"
    with psycopg.connect(postgresql.conninfo, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    conninfo = psycopg.conninfo.make_conninfo(postgresql.conninfo, dbname=name)
    with psycopg.connect(conninfo) as connection:
        create(connection, KEY.id, None)
    return conninfo


@pytest.fixture
async def open_store(conninfo: str) -> AsyncIterator[OpenStore]:
    """Opens the store of one more host."""
    opened: list[PostgreSQLStore] = []

    def open_it(*keys: SharedKey, timeout: float = 20.0) -> PostgreSQLStore:
        opened.append(PostgreSQLStore(Database(conninfo, timeout), Sealer(keys or (KEY,))))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def shared(open_store: OpenStore) -> PostgreSQLStore:
    """The store of one host."""
    return open_store()
