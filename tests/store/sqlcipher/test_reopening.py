"""The database is opened again after a rekey: the disk may fail at that moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pykcm.store.interface import StoreError
from pykcm.store.sqlcipher.backup import backup
from pykcm.store.sqlcipher.database import connect_to_write, set_pragma
from pykcm.store.sqlcipher.rekey import rekey as change_key
from tests.disk.rekeying import (
    BEFORE,
    UID,
    open_store,
    put,
    secrets,
)
from tests.server.waiting import settle, until
from tests.storing import commit_changes, secrets_of


async def test_database_opens_again_as_soon_as_the_disk_works(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk fails right after the rekey, requests are refused until the database opens."""
    monkeypatch.setattr("pykcm.store.sqlcipher.store._OPENED_AGAIN_AFTER", 0.01)
    store = open_store(state)
    really: Callable[..., Any] = connect_to_write
    disk = {"fails": True}

    def fails(*arguments: Any) -> Any:
        if disk["fails"]:
            raise sqlite_error()
        return really(*arguments)

    monkeypatch.setattr("pykcm.store.sqlcipher.store.connect_to_write", fails)
    async for _ in change_key(store, None):
        pass
    with pytest.raises(StoreError):
        await secrets_of(store, UID)
    with pytest.raises(StoreError):
        await commit_changes(store, [put(BEFORE)])
    disk["fails"] = False
    await until(lambda: store._opening is None)
    assert len(await secrets_of(store, UID)) == BEFORE
    store.close()
    assert await secrets(state) == list(range(BEFORE))


SETTINGS = ["cipher_hmac_algorithm", "journal_mode", "synchronous", "secure_delete", "temp_store"]
OTHER_SETTINGS = ["wal_autocheckpoint", "query_only", "cache_size"]


@pytest.mark.parametrize("setting", SETTINGS + OTHER_SETTINGS)
async def test_no_commit_before_all_settings_are_made(
    state: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """If one setting of the reopened database fails, requests are refused until all are made."""
    monkeypatch.setattr("pykcm.store.sqlcipher.store._OPENED_AGAIN_AFTER", 0.01)
    store = open_store(state)
    disk = {"fails": False}

    def failing(db: Any, name: str, value: str, wanted: object) -> None:
        if disk["fails"] and name == setting:
            raise sqlite_error()
        set_pragma(db, name, value, wanted)

    monkeypatch.setattr("pykcm.store.sqlcipher.wal.set_pragma", failing)
    monkeypatch.setattr("pykcm.store.sqlcipher.database.set_pragma", failing)
    replace = store.replace

    def fail_from_now_on(*arguments: Any) -> None:
        disk["fails"] = True
        replace(*arguments)

    monkeypatch.setattr(store, "replace", fail_from_now_on)
    async for _ in change_key(store, None):
        pass
    for _ in range(2):
        with pytest.raises(StoreError, match="could not be opened again"):
            await commit_changes(store, [put(BEFORE)])
        with pytest.raises(StoreError, match="could not be opened again"):
            await secrets_of(store, UID)
        with pytest.raises(StoreError, match="could not be opened again"):
            async with backup(store):
                pass
        await settle()
    disk["fails"] = False
    await until(lambda: store._opening is None)
    await commit_changes(store, [put(BEFORE)])
    settings = [store._db.execute(f"PRAGMA {name}").fetchall() for name in SETTINGS]
    assert settings == [[("HMAC_SHA256",)], [("wal",)], [(2,)], [(1,)], [(2,)]]
    store.close()
    assert await secrets(state) == list(range(BEFORE + 1))


def sqlite_error() -> Exception:
    from sqlcipher3 import dbapi2 as sqlcipher

    error: Exception = sqlcipher.OperationalError("injected")
    return error
