"""The file of the write-ahead log is extended by zeros and then keeps its size. Zeros are no commits."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher import database, wal
from pykcm.store.sqlcipher.damage import find_commits
from pykcm.store.sqlcipher.database import WAL_HEADER_SIZE, has_tickets, wal_of
from pykcm.store.sqlcipher.key_rotation import pending_key_of, write_pending_key
from pykcm.store.sqlcipher.online_copy import HeldCheckpoint
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, uid_container
from tests.server.waiting import until
from tests.storing import commit_changes, secrets_of

UID = 1000
FULL = wal._FULL_SIZE
FRAME = 24 + 4096

# Commits of a secret each that make a log longer than one that is not extended.
SOME = 30


def put(number: int) -> Put:
    return Put(uid_container(UID), f"{number}", b"%d" % number * 300)


async def numbers(store: SQLCipherStore) -> list[int]:
    return [int(secret.name) for secret in await secrets_of(store, UID)]


async def fill(store: SQLCipherStore, first: int, last: int) -> None:
    """Commit these secrets, one by one."""
    for number in range(first, last):
        await commit_changes(store, [put(number)])


def checkpoints(path: Path) -> int:
    """How often the write-ahead log has begun again."""
    with wal_of(path).open("rb") as file:
        return int.from_bytes(file.read(16)[12:])


def crashed(store: SQLCipherStore, folder: Path) -> Path:
    """The database as a crash would leave it now."""
    folder.mkdir()
    for file in (store.path, wal_of(store.path)):
        shutil.copy(file, folder / file.name)
    return folder / store.path.name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder / "pykcm.db"


@pytest.fixture
async def store(path: Path, key: Key) -> AsyncIterator[SQLCipherStore]:
    store = SQLCipherStore(path, key)
    yield store
    store.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slice gives the file its full size."""
    monkeypatch.setattr(wal, "_EXTENDED_BY", FULL)


async def test_few_commits_write_no_zeros(store: SQLCipherStore) -> None:
    """A daemon that is started for one kinit writes nothing but the kinit."""
    await fill(store, 0, 4)
    assert store.wal.size == WAL_HEADER_SIZE + find_commits(store.path).frames[-1] * FRAME


async def test_most_commits_do_not_extend_the_file(store: SQLCipherStore, tmp_path: Path, key: Key) -> None:
    """One commit for each slice of zeros extends the file, until the log begins again. None is lost."""
    await fill(store, 0, SOME)
    made = SOME
    extending = 0
    begun = checkpoints(store.path)
    while checkpoints(store.path) == begun:
        before = store.wal.size
        await fill(store, made, made + 1)
        extending += store.wal.size != before
        made += 1
    assert WAL_HEADER_SIZE + wal._LONG * FRAME < store.wal.size <= FULL
    assert extending <= FULL // wal._EXTENDED_BY + 1
    assert made > 10 * extending
    again = SQLCipherStore(crashed(store, tmp_path / "crashed"), key)
    assert await numbers(again) == list(range(made))
    again.close()


@pytest.mark.usefixtures("at_once")
async def test_wal_keeps_its_size_over_checkpoints_and_restarts(path: Path, key: Key) -> None:
    """In steady state no commit extends the file, and after a restart it gets the same size again."""
    for _ in range(2):
        store = SQLCipherStore(path, key)
        await fill(store, 0, SOME)
        begun = checkpoints(path)
        while checkpoints(path) < begun + 2:
            for number in range(10):
                await commit_changes(store, [Put(uid_container(UID), f"{number}", os.urandom(20_000))])
                assert store.wal.size == FULL
        store.close()
        assert not wal_of(path).exists()


async def test_crash_while_the_wal_is_extended(
    store: SQLCipherStore, tmp_path: Path, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that was extended in part, by zeros, reads as it did before."""
    await fill(store, 0, 4)
    small = store.wal.size
    for more in (1, 31, 4095, 4120, 100_000, FULL - small):
        path = crashed(store, tmp_path / f"{more}")
        os.truncate(wal_of(path), small + more)
        again = SQLCipherStore(path, key)
        assert await numbers(again) == list(range(4))
        await fill(again, 4, 5)
        assert await numbers(again) == list(range(5))
        again.close()
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("size", [1, 32, 4152, FULL])
async def test_wal_of_zeros_counts_as_closed_in_order(
    path: Path, key: Key, size: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A start with a log of zeros checks all pages, reads everything and logs nothing."""
    store = SQLCipherStore(path, key)
    await fill(store, 0, 5)
    store.close()
    wal_of(path).write_bytes(bytes(size))
    looked_at = []
    check = database.check_pages

    def looks(db: Any, *, closed_in_order: bool) -> None:
        looked_at.append(closed_in_order)
        check(db, closed_in_order=closed_in_order)

    monkeypatch.setattr(database, "check_pages", looks)
    caplog.clear()
    store = SQLCipherStore(path, key)
    assert looked_at == [True]
    assert await numbers(store) == list(range(5))
    await fill(store, 5, 6)
    store.close()
    assert caplog.records == []


def test_damaged_database_is_found_beside_a_wal_of_zeros(path: Path, key: Key) -> None:
    """A log of zeros does not hide a page whose HMAC is wrong."""
    SQLCipherStore(path, key).close()
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    wal_of(path).write_bytes(bytes(FULL))
    with pytest.raises(StoreUnusableError, match="damaged"):
        SQLCipherStore(path, key)


async def test_wal_of_zeros_without_a_database_has_no_tickets(path: Path, key: Key) -> None:
    """Zeros alone are not what is left of a database: a new one may be made beside them."""
    wal_of(path).write_bytes(bytes(FULL))
    assert not has_tickets(path)
    store = SQLCipherStore(path, key)
    await fill(store, 0, 1)
    assert await numbers(store) == [0]
    store.close()


@pytest.mark.usefixtures("at_once")
async def test_wal_with_a_frame_without_a_database_is_left_alone(
    store: SQLCipherStore, tmp_path: Path, key: Key
) -> None:
    """Where the log has changes, a missing database is never replaced by a new one."""
    await fill(store, 0, SOME)
    assert store.wal.size == FULL
    path = crashed(store, tmp_path / "crashed")
    path.unlink()
    assert has_tickets(path)
    with pytest.raises(StoreUnusableError, match="missing"):
        SQLCipherStore(path, key)


def test_key_rotation_is_recovered_beside_a_wal_of_zeros(path: Path, key: Key) -> None:
    """A key rotation that a crash has interrupted is taken back at the next start."""
    store = SQLCipherStore(path, key)
    asyncio.run(fill(store, 0, 5))
    store.close()
    wal_of(path).write_bytes(bytes(FULL))
    write_pending_key(path, key, bytes(32))
    before = path.read_bytes()
    store = SQLCipherStore(path, key)
    assert path.read_bytes() == before
    assert not pending_key_of(path).exists()
    assert store.key == key
    assert asyncio.run(numbers(store)) == list(range(5))
    store.close()


async def test_wal_of_zeros_alone_is_not_taken_for_a_long_one(store: SQLCipherStore) -> None:
    """Only frames make a log long."""
    await fill(store, 0, SOME)
    store.wal.empty()
    os.truncate(wal_of(store.path), FULL)
    assert not store.wal._is_long()


@pytest.mark.usefixtures("at_once")
async def test_wal_is_not_extended_while_a_copy_is_made(store: SQLCipherStore) -> None:
    """The growth of the file shows how much is written during a copy. Afterwards it is extended again."""
    await fill(store, 0, SOME)
    async with HeldCheckpoint(store, records=True) as held:
        await fill(store, SOME, 2 * SOME)
        assert store.wal.size < FULL // 2
        held.release()
        await until(lambda: not store.wal.is_copying)
        await fill(store, 2 * SOME, 3 * SOME)
        assert store.wal.size < FULL // 2
    await fill(store, 3 * SOME, 4 * SOME)
    assert store.wal.size == FULL


async def test_wal_is_not_extended_with_normal_durability(path: Path, key: Key) -> None:
    """Commits that do not wait for a sync gain nothing by it."""
    store = SQLCipherStore(path, key, "normal")
    await fill(store, 0, SOME)
    assert store.wal.size == WAL_HEADER_SIZE + find_commits(store.path).frames[-1] * FRAME
    store.close()


async def test_wal_is_not_extended_where_there_is_little_room(
    store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last room of a disk is left to commits."""
    monkeypatch.setattr(wal, "_ROOM", 1 << 62)
    await fill(store, 0, SOME)
    assert store.wal.size == WAL_HEADER_SIZE + find_commits(store.path).frames[-1] * FRAME


async def test_commits_go_on_if_the_file_of_the_wal_cannot_be_opened(
    store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that is durable is answered as such, whatever becomes of the zeros."""

    def fails(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(wal, "_write_zeros", fails)
    await fill(store, 0, SOME)
    assert await numbers(store) == list(range(SOME))


@pytest.mark.usefixtures("at_once")
async def test_disk_that_gets_full_while_the_wal_is_extended(
    mount_disk: Callable[[int], Path], key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that does not fit is given back, and commits go on."""
    monkeypatch.setattr(wal, "_ROOM", 0)
    store = SQLCipherStore(mount_disk(2048) / "pykcm.db", key)
    await fill(store, 0, 4 * SOME)
    assert await numbers(store) == list(range(4 * SOME))
    assert store.wal.size == WAL_HEADER_SIZE + find_commits(store.path).frames[-1] * FRAME
    store.close()
