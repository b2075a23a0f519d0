"""A copy of a store in use: whole as of one moment, encrypted, and checked."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pykcm.store.copies import StoreBusyError
from pykcm.store.interface import StoreError, StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.backup import backup
from pykcm.store.sqlcipher.online_copy import Progress, check_file
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, SecretChange, uid_container
from tests.disk.storing import ROOT
from tests.processes import in_child
from tests.server.waiting import until
from tests.store.sqlcipher.copying import Copying
from tests.storing import commit_changes, secrets_of

UID = 1000
MANY = 300

_OPEN = """
import sys
from pathlib import Path
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.store import SQLCipherStore
SQLCipherStore(Path(sys.argv[1]), Key(bytes.fromhex(sys.argv[2]), Path("key")))
"""


def put(number: int) -> Put:
    return Put(uid_container(UID), f"{number}", b"%d " % number * 1500)


@pytest.fixture
async def store(tmp_path: Path, key: Key) -> SQLCipherStore:
    """A store of some secrets, more than one piece of a backup."""
    folder = tmp_path / "state"
    folder.mkdir()
    store = SQLCipherStore(folder / "pykcm.db", key, "normal")
    await commit_changes(store, [put(number) for number in range(MANY)])
    return store


async def restored(content: bytes, folder: Path, key: Key) -> list[int]:
    """The secrets of a store that begins with this copy, each of them whole."""
    folder.mkdir()
    (folder / "pykcm.db").write_bytes(content)
    store = SQLCipherStore(folder / "pykcm.db", key)
    secrets = await secrets_of(store, UID)
    await commit_changes(store, [put(4711)])
    assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store.close()
    numbers = [int(secret.name) for secret in secrets]
    assert [secret.value for secret in secrets] == [put(number).value for number in numbers]
    return numbers


async def back_up(store: SQLCipherStore, changes: Sequence[SecretChange] = ()) -> None:
    """Make a backup, and commit these changes after each of its pieces."""
    async with backup(store) as copy, aclosing(copy.pieces()) as pieces:
        async for _ in pieces:
            if changes:
                await commit_changes(store, changes)


async def test_backup_has_exactly_the_earlier_commits(
    tmp_path: Path, key: Key, store: SQLCipherStore
) -> None:
    """A backup has all earlier commits and no later one; the commits during it stay."""
    pieces = []
    await commit_changes(store, [put(MANY)])
    async with backup(store) as copy:
        async with aclosing(copy.pieces()) as given:
            async for piece in given:
                pieces.append(piece)
                await commit_changes(store, [put(MANY + len(pieces))])
        content = b"".join(pieces)
        assert len(content) == copy.size
        assert copy.sha256 == hashlib.sha256(content).digest()
        assert copy.key == key.source
    assert len(pieces) > 2
    assert len(await secrets_of(store, UID)) == MANY + 1 + len(pieces)
    store.close()
    assert await restored(content, tmp_path / "restored", key) == list(range(MANY + 1))
    with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
        await restored(content, tmp_path / "other", Key(bytes(32), tmp_path / "key"))
    assert put(1).value not in content


async def test_checkpoints_go_on_after_a_backup(store: SQLCipherStore) -> None:
    """After a backup the log is copied into the database as before, and does not stay large."""
    await back_up(store, [put(number) for number in range(50)])
    size = store.path.stat().st_size
    for number in range(MANY, 3 * MANY):
        await commit_changes(store, [put(number)])
    assert store.path.stat().st_size > size
    assert store.path.with_name("pykcm.db-wal").stat().st_size < 6_000_000
    store.close()


async def back_up_and_commit(store: SQLCipherStore) -> None:
    async with backup(store):
        await commit_changes(store, [put(number) for number in range(MANY, 2 * MANY)])


async def test_commits_go_on_while_a_long_log_is_copied(store: SQLCipherStore, copying: Copying) -> None:
    """Commits and reads go on while a long log is copied; the next backup is refused until then."""
    journal = store.path.with_name("pykcm.db-wal")
    await back_up_and_commit(store)
    long = journal.stat().st_size
    with pytest.raises(StoreBusyError, match="under way"):
        async with backup(store):
            pass
    await commit_changes(store, [put(2 * MANY)])
    assert journal.stat().st_size > long
    copying.may_begin.set()
    number = 2 * MANY
    while store.wal.is_copying:
        number += 1
        await commit_changes(store, [put(number)])
        await asyncio.sleep(0)
    assert journal.stat().st_size < long
    assert len(await secrets_of(store, UID)) == number + 1
    async with backup(store) as copy:
        assert copy.size > long
    assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store._db.execute("PRAGMA wal_autocheckpoint").fetchall() == [(0,)]
    store.close()


async def test_failed_copy_of_a_long_log_is_made_up_for(
    store: SQLCipherStore, copying: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the copy of a long log fails, all commits are there, and the store's connection tries again."""

    def fails(*_: object) -> Any:
        raise OSError(5, "injected")

    copying.may_begin.set()
    monkeypatch.setattr("tests.store.sqlcipher.copying.copy_wal", fails)
    await back_up_and_commit(store)
    await until(lambda: not store.wal.is_copying)
    assert len(await secrets_of(store, UID)) == 2 * MANY
    assert store.path.with_name("pykcm.db-wal").stat().st_size == 0
    store.close()


async def test_closing_waits_for_the_copy_of_a_long_log(
    store: SQLCipherStore, key: Key, copying: Copying
) -> None:
    """A store that is closed meanwhile has lost nothing, and leaves no log."""
    await back_up_and_commit(store)
    await until(lambda: copying.is_asked_for)
    asyncio.get_running_loop().run_in_executor(None, copying.may_begin.set)
    store.close()
    assert copying.has_ended.is_set()
    assert not store.path.with_name("pykcm.db-wal").exists()
    again = SQLCipherStore(store.path, key)
    assert len(await secrets_of(again, UID)) == 2 * MANY
    again.close()


async def test_check_can_be_stopped(store: SQLCipherStore) -> None:
    """The check of every page ends early when it is stopped."""
    store.close()
    progress = Progress()
    check_file(store.path, store.key, progress)
    progress.stop()
    with pytest.raises(StoreError, match="interrupted"):
        check_file(store.path, store.key, progress)


async def test_interrupted_backup_leaves_the_store_as_it_was(store: SQLCipherStore) -> None:
    """After an interrupted backup commits go on, and the next backup can begin."""
    for _ in range(2):
        async with backup(store) as copy, aclosing(copy.pieces()) as pieces:
            await anext(pieces)
        assert store._observer is None
        await commit_changes(store, [put(MANY)])
    store.close()


async def test_second_backup_is_refused(store: SQLCipherStore) -> None:
    """During a backup another one is refused."""
    async with backup(store) as copy:
        with pytest.raises(StoreBusyError, match="under way"):
            async with backup(store):
                pass
    assert copy.size
    store.close()


async def test_backup_keeps_the_lock_of_the_database(store: SQLCipherStore) -> None:
    """Reading the file does not end the lock that keeps other processes out of the database."""

    def locked() -> None:
        # No fork: SQLite would take its child for the owner.
        other = [sys.executable, "-c", _OPEN, str(store.path), store.key.raw.hex()]
        done = subprocess.run(other, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr

    locked()
    await back_up(store)
    locked()
    store.close()


async def test_backup_of_a_damaged_database_fails(store: SQLCipherStore) -> None:
    """A database with a page that cannot be decrypted makes no complete backup."""
    store.wal.empty()
    with store.path.open("r+b") as file:
        file.seek(100_000)
        file.write(bytes(16))
    with pytest.raises(StoreError, match="damaged"):
        await back_up(store)
    store.close()


async def test_backup_is_given_up_if_the_log_grows_too_large(
    store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup is given up, and the log is copied again."""
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_IN_WAL", 500_000)
    with pytest.raises(StoreError, match="too much was written"):
        await back_up(store, [put(number) for number in range(MANY, MANY + 200)])
    assert store.path.with_name("pykcm.db-wal").stat().st_size == 0
    store.close()


async def test_crash_during_a_backup_loses_nothing(tmp_path: Path, key: Key, store: SQLCipherStore) -> None:
    """A process that ends during a backup has lost nothing, although there were no checkpoints."""
    store.close()

    def end_in_the_middle() -> object:
        again = SQLCipherStore(store.path, key)

        async def run() -> object:
            async with backup(again) as copy:
                pieces = copy.pieces()
                await anext(pieces)
                for number in range(MANY, 3 * MANY):
                    await commit_changes(again, [put(number)])
                os._exit(0)

        return asyncio.run(run())

    in_child(end_in_the_middle)
    again = SQLCipherStore(store.path, key)
    assert len(await secrets_of(again, UID)) == 3 * MANY
    again.close()
