"""A copy of the database comes to its end however much is written: those who write most wait for it."""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from pykcm.engine.committer import Committer
from pykcm.store.copies import Copied, Rekeyed
from pykcm.store.interface import Entry
from pykcm.store.keys import load_key
from pykcm.store.sqlcipher.backup import backup
from pykcm.store.sqlcipher.pacing import WritePacer, _share
from pykcm.store.sqlcipher.rekey import rekey as change_key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import DeleteContainer, Put, SecretChange, uid_container
from tests.server.waiting import LIMIT, until
from tests.storing import commit_changes, secrets_of

FREE = 64 * 1024
BUSY, LIGHT = 1000, 2000
EIGHT = range(BUSY, BUSY + 8)


def put(uid: int, size: int = 100, name: str = "one") -> Put:
    # Another value each time: SQLite writes nothing where nothing is different.
    return Put(uid_container(uid), name, os.urandom(size))


@pytest.fixture(autouse=True)
def _little_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches within a moment."""
    monkeypatch.setattr("pykcm.store.sqlcipher.pacing._FREE", FREE)
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_IN_WAL", 4_000_000)
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_RECORDED", 1_000_000)
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._PRESSED_AFTER", 200_000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLCipherStore]:
    """A store of 4 MB: a backup of sixteen pieces."""
    store = SQLCipherStore(tmp_path / "pykcm.db", load_key(tmp_path / "key", may_create=True))
    await commit_changes(store, [put(LIGHT, 40_000, str(number)) for number in range(100)])
    yield store
    store.close()


# Who waits


BIG = 10_000


class Pressed:
    """A pacer with as much room as the test says: a UID that has written much, and one that has not."""

    def __init__(self) -> None:
        self.room = 1
        self.written = 0
        self.pacer = WritePacer(Path("pykcm.db"), lambda more: self.room / (self.written + more))
        self.charge(BUSY, FREE + 1)
        self.charge(LIGHT, FREE // 2)

    def charge(self, uid: int, size: int) -> None:
        self.pacer.charge(uid, size)
        self.written += size


@pytest.fixture
def pressed() -> Pressed:
    return Pressed()


async def test_only_a_uid_that_has_written_much_waits(
    pressed: Pressed, caplog: pytest.LogCaptureFixture
) -> None:
    """A UID that has written little never waits; the other one waits, and the log names it once."""
    pacer = pressed.pacer
    assert pacer.delay([put(LIGHT)], 0) is None
    assert pacer.delay([put(3000)], 0) is None
    assert pacer.delay([], 0) is None
    assert pacer.delay([put(BUSY), put(LIGHT)], 0) is None
    for _ in range(2):
        assert pacer.delay([put(BUSY)], 0) is not None
    assert list(pacer.slowed) == [BUSY]
    (line,) = caplog.messages
    assert line.startswith("pykcm.db: UID 1000 writes much while the database is copied")


async def test_large_first_change_waits_too(pressed: Pressed) -> None:
    """Many UIDs that write one large change each at the same moment cannot prevent a copy either."""
    assert pressed.pacer.delay([put(3000, FREE)], 0) is not None


async def test_uids_share_the_room_evenly(pressed: Pressed) -> None:
    """A UID that has written less than its share never waits, however much others have written."""
    pacer = pressed.pacer
    pressed.room = 9 * FREE
    pressed.charge(BUSY, 8 * FREE)
    pressed.charge(LIGHT, FREE)
    assert pacer.delay([put(BUSY)], 0) is not None
    # There is room for 9: for 4.5 of each.
    assert pacer.delay([put(LIGHT, 2 * FREE)], 0) is None
    pressed.charge(LIGHT, 2 * FREE)
    assert pacer.delay([put(LIGHT, 2 * FREE)], 0) is not None
    assert pacer.delay([put(LIGHT, FREE // 2)], 0) is None


@pytest.mark.parametrize(
    ("amounts", "room", "share"),
    [
        ([], 10, 10),
        ([1, 2, 3], 100, 94),
        ([5, 5, 5], 9, 3),
        ([1, 5, 5], 9, 4),
        ([1, 2, 100], 9, 6),
        ([0, 0, 100], 9, 9),
    ],
)
def test_share_fits_the_room(amounts: list[int], room: float, share: float) -> None:
    """The share is the largest with which all amounts together fit."""
    assert _share(amounts, room) == share


async def test_no_commit_waits_while_there_is_room(pressed: Pressed) -> None:
    """While there is room, a UID may write as much as it likes."""
    pressed.room = 3 * FREE
    assert pressed.pacer.delay([put(BUSY)], 0) is None
    assert not pressed.pacer.slowed


async def test_waiting_commits_go_on_in_order(pressed: Pressed) -> None:
    """A commit that goes on counts before it is written, and a cancelled one is skipped."""
    pacer = pressed.pacer
    for uid in range(1, 5):
        pressed.charge(uid, 2 * FREE)
    turns = [turn for uid in range(1, 5) if (turn := pacer.delay([put(uid, BIG)], 0)) is not None]
    pacer.look()
    assert [turn.done() for turn in turns] == [False] * 4
    turns[0].cancel()
    pressed.room = pressed.written + 2 * (BIG + 1000)
    pacer.look()
    assert [turn.done() for turn in turns] == [True, True, True, False]
    pacer.look()
    assert not turns[3].done()
    # It was written, or has failed, and the UID's next one is written.
    pacer.charge(2, 0)
    pacer.look()
    assert turns[3].done()


async def test_wait_is_bounded(pressed: Pressed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit goes on after a while, even if there is no room."""
    monkeypatch.setattr("pykcm.store.sqlcipher.pacing._LONGEST_WAIT", 0.01)
    turn = pressed.pacer.delay([put(BUSY)], 0)
    assert turn is not None
    await asyncio.wait_for(turn, 20)


async def test_all_commits_go_on_when_the_copy_has_ended(pressed: Pressed) -> None:
    """When the copy has ended all commits go on, even if there is no room."""
    turns = [pressed.pacer.delay([put(BUSY)], 0) for _ in range(3)]
    pressed.pacer.end()
    assert all(turn is not None and turn.done() for turn in turns)


# Copies


async def test_error_in_pacing_fails_no_commit(
    store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit for which pacing fails does not wait, and is made."""

    def fail(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    committer = Committer(store)
    async with backup(store) as copy:
        monkeypatch.setattr(WritePacer, "delay", fail)
        for _ in range(2):
            await committer.commit(Entry([put(BUSY)]))
        async for _ in copy.pieces():
            pass
    assert len(await secrets_of(store, BUSY)) == 1
    assert caplog.text.count("commits do not wait for its copy because of an error in pykcm") == 1


async def test_delete_is_charged_to_the_uid_that_deletes(
    store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a large delete are not charged to other UIDs of the same transaction."""
    await commit_changes(store, [put(BUSY, 400_000)])
    async with backup(store):
        assert store._pacer is not None
        deleted: list[SecretChange] = [DeleteContainer(uid_container(BUSY))]
        assert store.delay(deleted, 400_000) is None
        assert store.delay([put(LIGHT)], 100) is None
        await commit_changes(store, [*deleted, put(LIGHT)])
        written = store._pacer._written
        assert written[BUSY] > 300_000
        assert written[LIGHT] < 10_000


class Writers:
    """UIDs that write all the time, each as fast as it may, and one that writes a little now and then."""

    def __init__(self, store: SQLCipherStore, uids: range) -> None:
        self.store = store
        self.committer = Committer(store)
        self.commits = dict.fromkeys(uids, 0)
        self.light = 0
        self._tasks = [asyncio.ensure_future(self._write(uid)) for uid in uids]

    async def _write(self, uid: int) -> None:
        while True:
            await self.committer.commit(Entry([put(uid, 40_000, str(self.commits[uid] % 3))]))
            self.commits[uid] += 1

    async def write_a_little(self) -> None:
        """Never waits for the copy: that would take longer."""
        async with asyncio.timeout(LIMIT):
            await self.committer.commit(Entry([put(LIGHT)]))
        self.light += 1

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("uids", [range(BUSY, BUSY + 1), EIGHT], ids=["one", "eight"])
async def test_backup_ends_although_a_uid_writes_all_the_time(store: SQLCipherStore, uids: range) -> None:
    """UIDs that write most wait for a slow reader's backup, others never, and afterwards none does."""

    async def back_up(writers: Writers) -> tuple[int, ...]:
        async with backup(store) as copy:
            async for _ in copy.pieces():
                # The reader takes its time: everybody can write as much as they may.
                await until(lambda: copy.slowed)
                if writers.light < 3:
                    await writers.write_a_little()
            assert copy.sha256
            return copy.slowed

    writers = Writers(store, uids)
    slowed = await asyncio.wait_for(back_up(writers), 60)
    assert set(slowed) <= set(uids)
    assert slowed
    before = dict(writers.commits)
    await until(lambda: all(writers.commits[uid] > before[uid] for uid in uids))
    assert store._pacer is None
    await writers.end()


@pytest.mark.parametrize("uids", [range(BUSY, BUSY + 1), EIGHT], ids=["one", "eight"])
async def test_rekey_ends_although_a_uid_writes_all_the_time(
    store: SQLCipherStore, uids: range, caplog: pytest.LogCaptureFixture
) -> None:
    """The progress names the UIDs that have waited, and none of their commits is lost."""
    caplog.set_level(logging.WARNING)

    async def rekey(writers: Writers) -> tuple[Rekeyed, tuple[int, ...]]:
        slowed: tuple[int, ...] = ()
        async for step in change_key(store, None):
            if isinstance(step, Copied):
                slowed = step.slowed
                await until(lambda: "writes much while the database is copied" in caplog.text)
                await writers.write_a_little()
            else:
                return step, slowed
        raise AssertionError("no end")

    writers = Writers(store, uids)
    rekeyed, slowed = await asyncio.wait_for(rekey(writers), 60)
    assert rekeyed.pause < 1
    assert set(slowed) <= set(uids)
    before = dict(writers.commits)
    # Each goes on, and has written each of its three secrets.
    await until(lambda: all(writers.commits[uid] > max(before[uid], 2) for uid in uids))
    assert store._pacer is None
    await writers.end()
    for uid in uids:
        assert len(await secrets_of(store, uid)) == 3
    named = {uid for uid in uids if f"UID {uid} writes much while the database is copied" in caplog.text}
    assert named
