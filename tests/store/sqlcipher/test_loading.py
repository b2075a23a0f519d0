"""A big collection is read in slices, and nothing of it is lost, repeated or out of order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.store.keys import Key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Delete, Put, Secret, ccaches_container, uid_container
from tests.storing import commit_changes, secrets_of

_LONG = 20_000


@pytest.fixture
def sqlcipher_store(tmp_path: Path) -> Iterator[SQLCipherStore]:
    store = SQLCipherStore(tmp_path / "pykcm.db", Key(bytes(32), tmp_path))
    yield store
    store.close()


def name_of(number: int) -> str:
    # In another order than the numbers.
    return f"{number * 7919 % 100_003:032x}"


def collection(uid: int, ccaches: int, credentials: int, size: int = 100) -> list[Put]:
    """The secrets of a UID; credentials of different ccaches are stored in turn."""
    above = ccaches_container(uid)
    puts = [Put(uid_container(uid), "default", b"{}")]
    puts += [Put(above, f"ccache{number}", b"{}", 2000 + number) for number in range(ccaches)]
    for number in range(credentials):
        value = b"%d " % number + bytes(size)
        puts.append(Put(f"{above}/ccache{number % ccaches}", name_of(number), value))
    return puts


@pytest.mark.parametrize(
    ("ccaches", "credentials", "size"),
    [
        (1, 0, 0),
        (3, 250, 100),
        (3, 260, 100),
        (1, 9000, 10),
        (1500, 3000, 10),
        (2, 20, _LONG),
        (1, 3, 4 * 1024 * 1024),
    ],
)
async def test_secrets_are_loaded_in_stored_order(
    sqlcipher_store: SQLCipherStore, ccaches: int, credentials: int, size: int
) -> None:
    """All secrets of the UID and no others are loaded in stored order, at once or in slices."""
    mine = collection(10, ccaches, credentials, size)
    await commit_changes(sqlcipher_store, collection(1, 2, 300))
    await commit_changes(sqlcipher_store, mine)
    await commit_changes(sqlcipher_store, collection(100, 2, 300))
    assert await secrets_of(sqlcipher_store, 10) == [Secret(*put) for put in mine]


async def test_others_commit_between_slices(sqlcipher_store: SQLCipherStore, tmp_path: Path) -> None:
    """Between slices other UIDs' changes are committed or rolled back, and no read transaction is open."""
    mine = collection(10, 3, 5000)
    await commit_changes(sqlcipher_store, [*collection(9, 2, 3000), *mine, *collection(11, 2, 300)])
    pauses = 0

    async def pause() -> None:
        nonlocal pauses
        pauses += 1
        number = pauses
        others = f"{ccaches_container(9)}/ccache{number % 2}"
        await commit_changes(
            sqlcipher_store,
            [
                *[Delete(others, name_of(each)) for each in range(number * 100, number * 100 + 100)],
                *collection(1000 + number, 1, 50),
            ],
        )
        # An open cursor would be in the way.
        [(is_busy, *_)] = sqlcipher_store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert not is_busy

    loaded = await secrets_of(sqlcipher_store, 10, pause)
    assert pauses > 20
    assert loaded == [Secret(*put) for put in mine]


async def test_slice_is_short(sqlcipher_store: SQLCipherStore) -> None:
    """One slice is a few ten thousand instructions of SQLite, however many secrets there are."""
    steps = [0]

    async def pause() -> None:
        steps.append(0)

    def count() -> None:
        steps[-1] += 1

    await commit_changes(sqlcipher_store, collection(10, 2, 8000))
    # Called after each 100 instructions of SQLite's machine.
    sqlcipher_store._db.set_progress_handler(count, 100)
    await secrets_of(sqlcipher_store, 10, pause)
    assert len(steps) > 8000 / 256
    # 256 secrets take about 20,000, 4096 ids about 45,000.
    assert max(steps) * 100 < 60_000, max(steps)


async def test_long_values_are_read_few_at_a_time(sqlcipher_store: SQLCipherStore) -> None:
    """Values of 100 kB are read some at a time, and not 256 of them in one slice."""
    await commit_changes(sqlcipher_store, collection(10, 1, 40, 100_000))
    pauses = 0

    async def pause() -> None:
        nonlocal pauses
        pauses += 1

    await secrets_of(sqlcipher_store, 10, pause)
    assert pauses >= 7


async def test_ordinary_collection_is_one_statement(sqlcipher_store: SQLCipherStore) -> None:
    """One statement reads an ordinary user's collection, without a pause."""
    await commit_changes(sqlcipher_store, collection(10, 5, 200, 1500))
    statements: list[str] = []
    sqlcipher_store._db.set_trace_callback(statements.append)

    async def pause() -> None:
        raise AssertionError("there is nothing to wait for")

    assert len(await secrets_of(sqlcipher_store, 10, pause)) == 206
    assert len(statements) == 1
