"""Fixtures and settings of all tests: a clean environment, deterministic hypothesis, and stores."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pykcm import logs
from pykcm.ccaches.ccache import CCache
from pykcm.logs import LINE_COUNTS, UserNames
from pykcm.protocol.credential import Credential
from pykcm.store.interface import Store
from pykcm.store.keys import Key
from pykcm.store.memory import MemoryStore
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.disk.faults import compile_faults
from tests.parallel import (
    pytest_collection_modifyitems,
    pytest_report_to_serializable,
    pytest_runtest_protocol,
)
from tests.processes import clean_environment
from tests.store.postgresql.server import SHARED_KEY, empty_database, running_database

__all__ = ["pytest_collection_modifyitems", "pytest_report_to_serializable", "pytest_runtest_protocol"]

# In seconds: no test on a loaded machine waits for so long.
_STORE_TIMEOUT = 20.0

clean_environment()

settings.register_profile(
    "deterministic",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of async tests and fixtures."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_lines_counted() -> None:
    """Reset the counts of log lines, so that tests do not depend on earlier tests."""
    LINE_COUNTS.clear()


@pytest.fixture(autouse=True)
def _no_accounts() -> Iterator[None]:
    """Let no user except root have an account, so that log lines do not depend on the machine."""
    # Not the fixture monkeypatch: all tests would undo their own patches after their folders are removed.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_USER_NAMES", UserNames(lambda uid: None if uid else "root", patience=20))
        yield


@pytest.fixture(scope="module")
def bytes_alone() -> Iterator[None]:
    """Let sizes be numbers of bytes without the memory of objects, for tests that add them up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Credential, "size", property(lambda credential: len(credential.blob)))
        patch.setattr(
            CCache, "size", property(lambda ccache: ccache.credentials.size + len(ccache.packed_principal))
        )
        yield


@pytest.fixture
def key(tmp_path: Path) -> Key:
    """A constant key."""
    return Key(bytes(range(32)), tmp_path / "key")


@pytest.fixture
def open_sqlcipher(tmp_path: Path, key: Key) -> Iterator[Callable[[], SQLCipherStore]]:
    """A function that opens the test's database, also again after a close; it is closed at the end."""
    opened: list[SQLCipherStore] = []

    def open_it() -> SQLCipherStore:
        # Not to wait for the disk: what a loss of power leaves is no matter here.
        opened.append(SQLCipherStore(tmp_path / "pykcm.db", key, "normal"))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture(scope="session")
def shared_database() -> Iterator[str]:
    """The connection string of a PostgreSQL database with the schema, for the tests of one process."""
    with running_database() as conninfo:
        yield conninfo


@pytest.fixture
def open_postgresql(shared_database: str) -> Iterator[Callable[[], PostgreSQLStore]]:
    """A function that opens the shared store of one more host; its database is empty at first."""
    opened: list[PostgreSQLStore] = []
    empty_database(shared_database)

    def open_it() -> PostgreSQLStore:
        opened.append(PostgreSQLStore(Database(shared_database, _STORE_TIMEOUT), Sealer([SHARED_KEY])))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture(params=["memory", "sqlcipher", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store, of each kind in turn."""
    if request.param == "memory":
        return MemoryStore()
    store: Store = request.getfixturevalue(f"open_{request.param}")()
    return store


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a process's calls on files fail; compiled once."""
    return compile_faults(tmp_path_factory.mktemp("faults"))
