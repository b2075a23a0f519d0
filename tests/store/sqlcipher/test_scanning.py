"""The number of ccaches and the UIDs that have some: always right, and nobody waits for them long."""

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pykcm.store.interface import StoreError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.rekey import rekey as change_key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Put,
    SecretChange,
    ccache_container,
    ccache_name,
    ccaches_container,
    uid_container,
)
from tests.storing import commit_changes

RAW = bytes(range(32))

# Of SQLite's virtual machine, in one iteration of the event loop: less than half a millisecond.
MOST_STEPS = 8_000

# The progress handler is called after so many.
STEPS = 10

_REALLY = (
    "SELECT count(*) FROM secrets WHERE container IN (SELECT id FROM containers WHERE path GLOB '*/ccaches')"
)


def name_of(number: int) -> str:
    return ccache_name(number.to_bytes(16), b"%d" % number)


def put(uid: int, number: int, expires: int | None = None) -> Put:
    return Put(ccaches_container(uid), name_of(number), b"{}", expires)


def put_all(uid: int, number: int) -> list[SecretChange]:
    """A ccache with a credential, and the default."""
    credentials = ccache_container(uid, number.to_bytes(16), b"%d" % number)
    return [Put(uid_container(uid), "default", b"{}"), put(uid, number), Put(credentials, "0" * 32, b"?")]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], SQLCipherStore]]:
    """Opens the store; of those that are open, only the last one may be used."""
    opened: list[SQLCipherStore] = []

    def open_() -> SQLCipherStore:
        if opened:
            opened.pop().close()
        opened.append(SQLCipherStore(tmp_path / "pykcm.db", Key(RAW, tmp_path / "key"), "normal"))
        return opened[-1]

    yield open_
    if opened:
        opened.pop().close()


@pytest.fixture
async def many(open_store: Callable[[], SQLCipherStore]) -> SQLCipherStore:
    """A store of 1,000 UIDs, of which one has 3,000 ccaches, and which has not counted anything yet."""
    store = open_store()
    changes = [change for uid in range(1, 1001) for change in put_all(uid, uid)]
    changes += [put(500, 10_000 + number) for number in range(2_999)]
    await commit_changes(store, changes)
    return open_store()


async def steps_of_turns(store: SQLCipherStore, work: Any) -> tuple[Any, list[int]]:
    """The result of `work`, and how many steps SQLite has made in each iteration of the loop meanwhile."""
    turns = [0]

    def step() -> int:
        turns[-1] += STEPS
        return 0

    task = asyncio.ensure_future(work)
    store._db.set_progress_handler(step, STEPS)
    while not task.done():
        turns.append(0)
        await asyncio.sleep(0)
    store._db.set_progress_handler(None, 0)
    return task.result(), turns


@pytest.mark.parametrize(("what", "expected"), [("count_ccaches", 3_999), ("uids", list(range(1, 1001)))])
async def test_no_iteration_of_the_event_loop_is_long(
    many: SQLCipherStore, what: str, expected: object
) -> None:
    """Counting ccaches and finding the UIDs pauses after a bounded number of steps."""
    result, turns = await steps_of_turns(many, getattr(many, what)())
    assert result == expected
    assert sum(turns) > MOST_STEPS
    assert max(turns) < MOST_STEPS


async def test_ccaches_are_counted_once(many: SQLCipherStore) -> None:
    """From the second call on the number costs next to nothing, also after changes and failed commits."""

    def fail() -> Iterator[SecretChange]:
        yield put(1, 5)
        yield DeleteContainer(ccaches_container(500))
        raise StoreError("no")

    await many.count_ccaches()
    await commit_changes(many, [put(1, 2), put(1, 3), Delete(ccaches_container(2), name_of(2))])
    with pytest.raises(StoreError):
        await commit_changes(many, fail())
    count, turns = await steps_of_turns(many, many.count_ccaches())
    assert count == 4_000
    assert sum(turns) < 100


async def test_concurrent_calls_share_one_count(many: SQLCipherStore) -> None:
    """An iteration of the event loop counts one slice for any number of callers."""

    async def ask() -> list[int]:
        return await asyncio.gather(*(many.count_ccaches() for _ in range(50)))

    counts, turns = await steps_of_turns(many, ask())
    assert counts == [3_999] * 50
    # Each of them looks whether the database can be read, too.
    assert max(turns) < 2 * MOST_STEPS


@pytest.mark.parametrize("seed", range(8))
async def test_number_is_right_despite_concurrent_commits(
    open_store: Callable[[], SQLCipherStore], seed: int
) -> None:
    """Ccaches that come and go during the count are counted once, or not at all."""
    chance = random.Random(seed)
    store = open_store()
    uids = range(1, 40)
    await commit_changes(store, [change for uid in uids for change in put_all(uid, uid)])
    await commit_changes(store, [put(20, number) for number in range(100, 500)])
    store = open_store()

    def change() -> SecretChange:
        uid = chance.choice([*uids, 20, 20, 20, 20])
        number = chance.choice([uid, *range(100, 520, 7)])
        match chance.randrange(10):
            case 0:
                return DeleteContainer(ccaches_container(uid))
            case 1 | 2 | 3:
                return Delete(ccaches_container(uid), name_of(number))
            case _:
                return put(uid, number, chance.choice([None, 7]))

    counting = asyncio.ensure_future(store.count_ccaches())
    commits = 0
    while not counting.done():
        await commit_changes(store, [change() for _ in range(chance.randrange(5))])
        commits += 1
        await asyncio.sleep(0)
    assert commits > 3
    await commit_changes(store, [change() for _ in range(20)])
    assert [(await store.count_ccaches(),)] == store._query(_REALLY)


async def test_number_is_right_after_a_crash(
    open_store: Callable[[], SQLCipherStore], tmp_path: Path
) -> None:
    """A database left with its log has the ccaches that were committed."""
    store = open_store()
    await commit_changes(store, [put(1, 1), put(1, 2)])
    assert await store.count_ccaches() == 2
    await commit_changes(store, [put(2, 1), Delete(ccaches_container(1), name_of(1)), put(3, 1)])
    left = tmp_path / "left"
    left.mkdir()
    for file in tmp_path.glob("pykcm.db*"):
        shutil.copy(file, left)
    again = SQLCipherStore(left / "pykcm.db", Key(RAW, tmp_path / "key"))
    assert await again.count_ccaches() == await store.count_ccaches() == 3
    again.close()


@pytest.mark.parametrize("slices", [0, 3])
async def test_number_is_right_after_a_rekey(many: SQLCipherStore, tmp_path: Path, slices: int) -> None:
    """The replaced database counts as the same one, also during the count."""
    many.key = Key(RAW, tmp_path / "key")
    (tmp_path / "key").write_bytes(RAW)
    counting = asyncio.ensure_future(many.count_ccaches()) if slices else None
    for _ in range(slices):
        await asyncio.sleep(0)
    async for _ in change_key(many, None):
        await commit_changes(many, [put(7, 77)])
    if counting is not None:
        await counting
    assert await many.count_ccaches() == 4_000
    await commit_changes(many, [DeleteContainer(ccaches_container(500))])
    assert await many.count_ccaches() == 1_000


async def test_uids_are_ascending(open_store: Callable[[], SQLCipherStore]) -> None:
    """UIDs of any number of digits are ascending, and those without ccaches are left out."""
    store = open_store()
    uids = [0, 2, 9, 10, 11, 99, 100, 1000, 65534, 1_000_000, 4_294_967_294]
    for uid in reversed(uids):
        await commit_changes(store, put_all(uid, 1))
    await commit_changes(store, [*put_all(5, 1), Delete(ccaches_container(5), name_of(1))])
    await commit_changes(store, [Put(uid_container(6), "default", b"{}")])
    assert await store.uids() == uids
