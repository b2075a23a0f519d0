"""A copy of a store in use: whole as of one moment, encrypted, and checked."""

import asyncio
import hashlib
import os
import subprocess
import sys
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
from pykcm.store.tree import Put, uid_container
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
def store(tmp_path: Path, key: Key) -> SQLCipherStore:
    """A store of some secrets, more than one piece of a backup."""
    folder = tmp_path / "state"
    folder.mkdir()
    store = SQLCipherStore(folder / "pykcm.db", key, "normal")
    asyncio.run(commit_changes(store, [put(number) for number in range(MANY)]))
    return store


def restored(content: bytes, folder: Path, key: Key) -> list[int]:
    """The secrets of a store that begins with this copy, each of them whole."""
    folder.mkdir()
    (folder / "pykcm.db").write_bytes(content)
    store = SQLCipherStore(folder / "pykcm.db", key)
    secrets = asyncio.run(secrets_of(store, UID))
    asyncio.run(commit_changes(store, [put(4711)]))
    assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store.close()
    numbers = [int(secret.name) for secret in secrets]
    assert [secret.value for secret in secrets] == [put(number).value for number in numbers]
    return numbers


def test_whole_while_others_commit(tmp_path: Path, key: Key, store: SQLCipherStore) -> None:
    """It has all that was committed before it began and nothing later; what is committed meanwhile stays."""

    async def run() -> bytes:
        pieces = []
        await commit_changes(store, [put(MANY)])
        async with backup(store) as copy:
            async with aclosing(copy.pieces()) as given:
                async for piece in given:
                    pieces.append(piece)
                    await commit_changes(store, [put(MANY + len(pieces))])
            assert sum(map(len, pieces)) == copy.size
            assert copy.sha256 == hashlib.sha256(b"".join(pieces)).digest()
            assert copy.key == key.source
        assert len(pieces) > 2
        assert len(await secrets_of(store, UID)) == MANY + 1 + len(pieces)
        return b"".join(pieces)

    content = asyncio.run(run())
    store.close()
    assert restored(content, tmp_path / "restored", key) == list(range(MANY + 1))
    with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
        restored(content, tmp_path / "other", Key(bytes(32), tmp_path / "key"))
    assert put(1).value not in content


def test_the_journal_goes_on(store: SQLCipherStore) -> None:
    """After it the journal is copied into the database as before, and does not stay large."""

    async def run() -> None:
        async with backup(store) as copy, aclosing(copy.pieces()) as pieces:
            async for _ in pieces:
                await commit_changes(store, [put(number) for number in range(50)])
        size = store.path.stat().st_size
        for number in range(MANY, 3 * MANY):
            await commit_changes(store, [put(number)])
        assert store.path.stat().st_size > size
        assert store.path.with_name("pykcm.db-wal").stat().st_size < 6_000_000

    asyncio.run(run())
    store.close()


async def back_up_and_commit(store: SQLCipherStore) -> None:
    async with backup(store):
        await commit_changes(store, [put(number) for number in range(MANY, 2 * MANY)])


def test_a_long_journal(store: SQLCipherStore, copying: Copying) -> None:
    """Commits and reads go on while a long journal is copied; the next backup has to wait for that."""
    journal = store.path.with_name("pykcm.db-wal")

    async def run() -> None:
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

    asyncio.run(run())
    assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store._db.execute("PRAGMA wal_autocheckpoint").fetchall() == [(0,)]
    store.close()


def test_a_long_journal_that_cannot_be_copied(
    store: SQLCipherStore, copying: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the copying fails all that was committed is there, and the store does as usual."""

    def fails(*_: object) -> Any:
        raise OSError(5, "injected")

    copying.may_begin.set()
    monkeypatch.setattr("tests.store.sqlcipher.copying.copy_wal", fails)

    async def run() -> None:
        await back_up_and_commit(store)
        await until(lambda: not store.wal.is_copying)
        assert len(await secrets_of(store, UID)) == 2 * MANY

    asyncio.run(run())
    assert store.path.with_name("pykcm.db-wal").stat().st_size == 0
    store.close()


def test_the_end_while_a_long_journal_is_copied(store: SQLCipherStore, key: Key, copying: Copying) -> None:
    """A store that is closed meanwhile has lost nothing, and leaves no journal."""

    async def run() -> None:
        await back_up_and_commit(store)
        await until(lambda: copying.is_asked_for)
        asyncio.get_running_loop().run_in_executor(None, copying.may_begin.set)
        store.close()
        assert copying.has_ended.is_set()

    asyncio.run(run())
    assert not store.path.with_name("pykcm.db-wal").exists()
    again = SQLCipherStore(store.path, key)
    assert len(asyncio.run(secrets_of(again, UID))) == 2 * MANY
    again.close()


def test_a_check_that_is_stopped(store: SQLCipherStore) -> None:
    """Looking at every page ends early when it is told to."""
    store.close()
    progress = Progress()
    check_file(store.path, store.key, progress)
    progress.stop()
    with pytest.raises(StoreError, match="interrupted"):
        check_file(store.path, store.key, progress)


def test_broken_off(store: SQLCipherStore) -> None:
    """Whoever breaks it off leaves the store as it was; the next one can begin."""

    async def run() -> None:
        for _ in range(2):
            async with backup(store) as copy, aclosing(copy.pieces()) as pieces:
                await anext(pieces)
            assert store._observer is None
            await commit_changes(store, [put(MANY)])

    asyncio.run(run())
    store.close()


def test_one_at_a_time(store: SQLCipherStore) -> None:
    """While one is under way another one is refused."""

    async def run() -> None:
        async with backup(store) as copy:
            with pytest.raises(StoreBusyError, match="under way"):
                async with backup(store):
                    pass
        assert copy.size

    asyncio.run(run())
    store.close()


def test_the_lock_stays(store: SQLCipherStore) -> None:
    """It reads the file without ending the lock that keeps other processes out of the database."""

    def locked() -> None:
        # No fork: SQLite would take its child for the owner.
        other = [sys.executable, "-c", _OPEN, str(store.path), store.key.raw.hex()]
        done = subprocess.run(other, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr

    async def run() -> None:
        async with backup(store) as copy, aclosing(copy.pieces()) as pieces:
            async for _ in pieces:
                pass

    locked()
    asyncio.run(run())
    locked()
    store.close()


def test_a_damaged_database(store: SQLCipherStore) -> None:
    """A database with a page that cannot be decrypted makes no backup that counts as one."""
    store.wal.empty()
    with store.path.open("r+b") as file:
        file.seek(100_000)
        file.write(bytes(16))

    async def run() -> None:
        async with backup(store) as copy:
            async for _ in copy.pieces():
                pass

    with pytest.raises(StoreError, match="damaged"):
        asyncio.run(run())
    store.close()


def test_too_much_meanwhile(store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the journal grows too large meanwhile it gives up, and the journal is copied again."""
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_IN_WAL", 500_000)

    async def run() -> None:
        async with backup(store) as copy, aclosing(copy.pieces()) as pieces:
            async for _ in pieces:
                await commit_changes(store, [put(number) for number in range(MANY, MANY + 200)])

    with pytest.raises(StoreError, match="too much was written"):
        asyncio.run(run())
    assert store.path.with_name("pykcm.db-wal").stat().st_size == 0
    store.close()


def test_what_a_crash_leaves(tmp_path: Path, key: Key, store: SQLCipherStore) -> None:
    """A process that ends in the middle of it has lost nothing, although the journal was held back."""
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
    assert len(asyncio.run(secrets_of(again, UID))) == 3 * MANY
    again.close()
