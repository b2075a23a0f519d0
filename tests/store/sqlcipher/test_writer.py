"""Commits whose sync is waited for in a thread: reads go on, and nothing that a commit promises is lost."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pykcm.store.interface import Committed, Entry, Refused
from pykcm.store.keys import Key
from pykcm.store.sqlcipher import writer
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.sqlcipher.writer import Writer
from pykcm.store.tree import DeleteContainer, Put, SecretChange, ccaches_container, uid_container
from tests.server.waiting import LIMIT, settle, until
from tests.storing import commit_changes, secrets_of

UID = 1000
NEVER = -1


class HeldCommits:
    """COMMITs that wait, in the thread, until `gate` is open: before they are made, or when they are."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.threads: list[threading.Thread] = []
        self.is_made_first = False
        self.error: Exception | None = None
        self._really = Writer._commit

    def commit(self, writer: Writer) -> None:
        """As Writer._commit."""
        if self.is_made_first:
            self._really(writer)
        self.threads.append(threading.current_thread())
        assert self.gate.wait(LIMIT)
        if self.error is not None:
            raise self.error
        if not self.is_made_first:
            self._really(writer)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldCommits:
    held = HeldCommits()
    monkeypatch.setattr(Writer, "_commit", lambda each: held.commit(each))  # noqa: PLW0108 - bound to the writer
    return held


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder / "pykcm.db"


@pytest.fixture
async def store(path: Path, key: Key) -> AsyncIterator[SQLCipherStore]:
    """With the secret 0, and one ccache."""
    store = SQLCipherStore(path, key)
    await commit_changes(store, [put(0), put_ccache(0)])
    yield store
    store.close()


def put(number: int, size: int = 100) -> Put:
    return Put(uid_container(UID), f"{number}", bytes(size))


def put_ccache(number: int) -> Put:
    return Put(ccaches_container(UID), f"{number:032x}-x", b"{}", 1000 + number)


async def numbers(store: SQLCipherStore) -> list[int]:
    secrets = await secrets_of(store, UID)
    return [int(each.name) for each in secrets if each.container == uid_container(UID)]


def begin(store: SQLCipherStore, *puts: Put) -> "asyncio.Task[None]":
    return asyncio.ensure_future(commit_changes(store, puts))


async def test_everything_is_read_as_before_while_a_commit_waits_for_its_sync(
    store: SQLCipherStore, held: HeldCommits
) -> None:
    """All kinds of reads are answered meanwhile, and have nothing that is not durable."""
    task = begin(store, put(1), put_ccache(1))
    await until(lambda: held.threads)
    assert await numbers(store) == [0]
    assert await store.uids() == [UID]
    assert [each.expires for each in await store.expired(2000, None, 10)] == [1000]
    assert await store.uids_without_expiry(0) == ([], None)
    held.gate.set()
    await task
    assert await numbers(store) == [0, 1]
    assert await store.count_ccaches() == 2
    assert held.threads != [threading.main_thread()]


async def test_changes_of_a_large_commit_are_not_seen_before_it_is_made(
    store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large transaction lets others have their turn after each slice, and they see nothing of it."""
    monkeypatch.setattr(writer, "_LARGE", 0)
    monkeypatch.setattr(writer, "_SLICE", 0.0)
    changes: list[SecretChange] = [
        DeleteContainer(uid_container(UID)),
        *[put(number) for number in range(1, 50)],
    ]
    task = asyncio.ensure_future(commit_changes(store, changes))
    reads = 0
    while not task.done():
        if (found := await numbers(store)) != [0]:
            # It is durable; its end has not come to this task.
            await until(task.done)
            assert found == list(range(1, 50))
        reads += 1
        await asyncio.sleep(0)
    assert reads > 40
    assert await numbers(store) == list(range(1, 50))


async def test_ccaches_are_not_counted_twice_while_a_commit_ends(
    store: SQLCipherStore, held: HeldCommits
) -> None:
    """The number of ccaches is right, even if it is asked for when a commit is durable and not answered."""
    held.is_made_first = True
    task = begin(store, put_ccache(1))
    await until(lambda: held.threads)
    counting = asyncio.ensure_future(store.count_ccaches())
    await settle()
    held.gate.set()
    await task
    assert await counting == 2
    assert await store.count_ccaches() == 2


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_commit_is_made_and_the_next_one_too(
    store: SQLCipherStore, held: HeldCommits, times: int
) -> None:
    """A caller that is cancelled gets CancelledError once its commit is made; others are not disturbed."""
    task = begin(store, put(1), put_ccache(1))
    await until(lambda: held.threads)
    for _ in range(times):
        task.cancel()
        await settle()
    assert not task.done()
    other = begin(store, put(2))
    held.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await other
    assert await numbers(store) == [0, 1, 2]
    assert await store.count_ccaches() == 2


async def test_a_timeout_around_a_commit_is_told_as_a_timeout(
    store: SQLCipherStore, held: HeldCommits
) -> None:
    """The cancellation that is put off still counts as that of the timeout."""
    limit = asyncio.timeout(None)

    async def end_the_time() -> None:
        await until(lambda: held.threads)
        limit.reschedule(asyncio.get_running_loop().time())
        await until(limit.expired)
        await settle()
        held.gate.set()

    async def commit() -> None:
        async with limit:
            await commit_changes(store, [put(1)])
            await asyncio.sleep(LIMIT)

    ending = asyncio.ensure_future(end_the_time())
    with pytest.raises(TimeoutError):
        await commit()
    await ending
    assert await numbers(store) == [0, 1]


async def test_a_large_commit_cancelled_among_its_changes_leaves_nothing(
    store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has none of its changes, and the next commit is made."""
    monkeypatch.setattr(writer, "_LARGE", 0)
    monkeypatch.setattr(writer, "_SLICE", 0.0)
    task = begin(store, *[put(number) for number in range(1, 50)])
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await numbers(store) == [0]
    await commit_changes(store, [put(50)])
    assert await numbers(store) == [0, 50]


async def test_the_store_is_closed_when_its_commit_is_made(
    store: SQLCipherStore, held: HeldCommits, path: Path, key: Key
) -> None:
    """Closing waits for the thread; what it commits is there, and its caller is answered."""
    task = begin(store, put(1))
    await until(lambda: held.threads)
    threading.Timer(0.01, held.gate.set).start()
    store.close()
    assert held.gate.is_set()
    await task
    again = SQLCipherStore(path, key)
    assert await numbers(again) == [0, 1]
    again.close()


async def test_an_error_in_the_thread_is_the_commits_own(store: SQLCipherStore, held: HeldCommits) -> None:
    """A commit that fails in the thread is refused and leaves nothing; the next one is made."""
    held.error = ZeroDivisionError()
    held.gate.set()
    (outcome,) = await store.commit([Entry([put(1)])])
    assert isinstance(outcome, Refused)
    held.error = None
    assert await numbers(store) == [0]
    (outcome,) = await store.commit([Entry([put(2)])])
    assert isinstance(outcome, Committed)
    assert await numbers(store) == [0, 2]


async def test_entries_that_share_a_failing_commit_share_no_failure(
    store: SQLCipherStore, held: HeldCommits
) -> None:
    """Each gets an attempt of its own, and reads in between see what is durable."""
    held.gate.set()
    impossible: Any = object()
    entries = [Entry([put(1)]), Entry([Put(uid_container(UID), "x", impossible)]), Entry([put(2)])]
    outcomes = await store.commit(entries)
    assert [type(outcome) for outcome in outcomes] == [Committed, Refused, Committed]
    assert await numbers(store) == [0, 1, 2]


async def test_commits_are_made_where_no_thread_can_be_had(path: Path, key: Key, monkeypatch: Any) -> None:
    """Then the event loop waits for the disk, as it must, and nothing that failed to start comes later."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = SQLCipherStore(path, key)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        await commit_changes(store, [put(0)])
        await commit_changes(store, [put(1)])
        assert await numbers(store) == [0, 1]
    await commit_changes(store, [put(2)])
    assert await numbers(store) == [0, 1, 2]
    store.close()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each COMMIT, whether it was made in the event loop."""
    made: list[bool] = []

    def record(name: str) -> None:
        really = getattr(Writer, name)

        def commit(*arguments: object) -> object:
            made.append(threading.current_thread() is threading.main_thread())
            return really(*arguments)

        monkeypatch.setattr(Writer, name, commit)

    record("_commit")
    record("_commit_one_statement")
    return made


async def test_the_event_loop_commits_only_while_the_disk_is_fast(
    path: Path, key: Key, threads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 15 fast commits the next ones are made in the event loop, until two of 16 were slow."""
    store = SQLCipherStore(path, key)

    async def commits(number: int, fast: float) -> list[bool]:
        monkeypatch.setattr(writer, "_FAST", fast)
        threads.clear()
        for _ in range(number):
            await commit_changes(store, [put(1)])
        return threads

    assert await commits(15, LIMIT) == [False] * 15
    assert await commits(3, LIMIT) == [True] * 3
    assert await commits(3, NEVER) == [True, True, False]
    # Both slow ones have to be 16 commits back, except one.
    assert await commits(15, LIMIT) == [False] * 15
    assert await commits(1, LIMIT) == [True]
    store.close()


async def test_a_large_change_is_never_committed_in_the_event_loop(
    path: Path, key: Key, threads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To encrypt and write it takes longer than others may wait."""
    monkeypatch.setattr(writer, "_FAST", LIMIT)
    store = SQLCipherStore(path, key)
    for _ in range(20):
        await commit_changes(store, [put(1)])
    threads.clear()
    await store.commit([Entry([put(1, 100_000)], size=100_000)])
    await store.commit([Entry([put(1, 20_000)], size=20_000)] * 5)
    await store.commit([Entry([put(1)], size=100)])
    assert threads == [False, False, True]
    store.close()


@pytest.mark.parametrize("durability", ["full", "normal"])
@pytest.mark.parametrize("fast", [LIMIT, NEVER])
async def test_the_write_ahead_log_stays_short_among_reads(
    path: Path, key: Key, monkeypatch: pytest.MonkeyPatch, durability: str, fast: float
) -> None:
    """Among any number of commits and reads, the log is copied into the database and begun again."""
    monkeypatch.setattr(writer, "_FAST", fast)
    store = SQLCipherStore(path, key, durability)
    is_done = False

    async def read() -> None:
        while not is_done:
            await numbers(store)
            await asyncio.sleep(0)

    reading = asyncio.ensure_future(read())
    for turn in range(1500):
        await store.commit([Entry([Put(uid_container(UID), "0", b"%d " % turn * 1500)])])
    is_done = True
    await reading
    # 1,000 pages make it long, and the commit that does has some more.
    assert path.with_name("pykcm.db-wal").stat().st_size < 1100 * 4200
    store.close()
    assert not path.with_name("pykcm.db-wal").exists()
