"""Databases for tests of the SQLCipher store, without a key of systemd."""

from pathlib import Path

import pytest

from pykcm.store.keys import Key
from tests.disk.rekeying import prepare
from tests.store.sqlcipher.databases import Database


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    """A state folder with a store of a few secrets."""
    folder = tmp_path / "state"
    folder.mkdir(0o700)
    await prepare(folder)
    return folder


@pytest.fixture
def database(tmp_path: Path, key: Key) -> Database:
    """No database yet."""
    return Database(tmp_path / "state", key)


@pytest.fixture
def filled(database: Database) -> Database:
    """A database of ten secrets, closed in order."""
    database.write(*range(10))
    return database


@pytest.fixture(params=["closed in order", "killed"])
def either(filled: Database, request: pytest.FixtureRequest) -> Database:
    """A database that was closed in order, and one whose log a killed process left."""
    if request.param == "killed":
        filled.write_and_die(10, 11)
    return filled
