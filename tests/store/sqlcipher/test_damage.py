"""A journal that is damaged after a crash: what is left out is told, and what is as it should be is not."""

import logging
import shutil
from pathlib import Path

import pytest

from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import load_key
from pykcm.store.sqlcipher.damage import find_commits
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, uid_container
from tests.storing import commit_changes, secrets_of

UID = 1000
HEADER, FRAME, PAGE = 32, 24, 4096
COMMITS = 5


def put(number: int) -> Put:
    """A secret of several pages."""
    return Put(uid_container(UID), f"{number}", b"%d" % number * 10_000)


def open_store(state: Path) -> SQLCipherStore:
    return SQLCipherStore(
        state / "pykcm.db", load_key(state / "key", may_create=not (state / "key").exists())
    )


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """What a crash leaves of a store with five commits in its journal."""
    (tmp_path / "running").mkdir()
    running = open_store(tmp_path / "running")
    running.wal.empty()
    for number in range(COMMITS):
        await commit_changes(running, [put(number)])
    shutil.copytree(tmp_path / "running", tmp_path / "crashed")
    running.close()
    return tmp_path / "crashed"


def ends(state: Path) -> list[int]:
    """The numbers of the frames that end the five changes."""
    found = find_commits(state / "pykcm.db")
    assert found.is_readable
    assert len(found.frames) == COMMITS
    return found.frames


async def start(state: Path, caplog: pytest.LogCaptureFixture) -> tuple[list[int], list[str]]:
    """The secrets that the next start finds, and its warnings."""
    caplog.clear()
    store = open_store(state)
    numbers = [int(secret.name) for secret in await secrets_of(store, UID)]
    await commit_changes(store, [put(100)])
    store.close()
    return numbers, [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def flip(state: Path, offset: int) -> None:
    """Damage one byte of the journal."""
    with (state / "pykcm.db-wal").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def at(frame: int) -> int:
    """Where a frame begins."""
    return HEADER + (frame - 1) * (FRAME + PAGE)


async def test_a_crash_is_no_damage(crashed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a crash everything is there, and there is nothing to be told."""
    assert await start(crashed, caplog) == ([0, 1, 2, 3, 4], [])
    assert await start(crashed, caplog) == ([0, 1, 2, 3, 4, 100], [])


@pytest.mark.parametrize("where", ["page", "salt", "checksum", "number"])
@pytest.mark.parametrize("change", range(COMMITS))
async def test_damage_is_told(
    crashed: Path, caplog: pytest.LogCaptureFixture, change: int, where: str
) -> None:
    """Damage in a frame leaves out its change and those behind it, and the warning says how many."""
    first = [0, *ends(crashed)][change] + 1
    flip(crashed, at(first) + {"number": 0, "salt": 8, "checksum": 16, "page": FRAME + 100}[where])
    numbers, (warning,) = await start(crashed, caplog)
    assert numbers == list(range(change))
    assert f"there are {COMMITS - change} more" in warning
    assert str(crashed / "pykcm.db") in warning
    assert "see to the disk" in warning


@pytest.mark.parametrize("offset", [0, 8, 16, 20, 24, 28])
async def test_a_damaged_header_is_told(crashed: Path, caplog: pytest.LogCaptureFixture, offset: int) -> None:
    """Without its header the journal is not read at all: all five changes are left out."""
    flip(crashed, offset)
    numbers, (warning,) = await start(crashed, caplog)
    assert numbers == []
    assert f"there are {COMMITS} more" in warning


@pytest.mark.parametrize("damaged", ["header", "first frame"])
async def test_a_start_that_is_refused_leaves_a_damaged_journal(
    crashed: Path, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    """Without the right key nothing is changed; with it, the damage is told."""
    flip(crashed, 24 if damaged == "header" else at(1) + FRAME + 100)
    key = (crashed / "key").read_bytes()
    journal = (crashed / "pykcm.db-wal").read_bytes()
    (crashed / "key").write_bytes(bytes(32))
    with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
        open_store(crashed)
    assert (crashed / "pykcm.db-wal").read_bytes() == journal
    (crashed / "key").write_bytes(key)
    numbers, (warning,) = await start(crashed, caplog)
    assert numbers == []
    assert f"there are {COMMITS} more" in warning


async def test_a_change_that_was_not_written_whole_is_no_damage(
    crashed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A change that a kill interrupted, at any of its frames or in one, was not acknowledged: no warning."""
    journal = crashed / "pykcm.db-wal"
    whole = journal.read_bytes()
    database = (crashed / "pykcm.db").read_bytes()
    *_, before, last = ends(crashed)
    for frame in range(before + 1, last + 1):
        for more in (0, FRAME, FRAME + 100):
            (crashed / "pykcm.db").write_bytes(database)
            journal.write_bytes(whole[: at(frame) + more])
            numbers, warnings = await start(crashed, caplog)
            assert numbers == [0, 1, 2, 3]
            # Cut in its last frame, the change is told: nobody knows that it was not acknowledged.
            assert len(warnings) == (frame == last and more > 0)


async def test_an_older_generation_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is left of the journal from before it was begun again does not count."""
    (tmp_path / "running").mkdir()
    running = open_store(tmp_path / "running")
    for number in range(COMMITS):
        await commit_changes(running, [put(number)])
    # Copied into the database, but left as it is: the next change begins the journal again.
    running._db.execute("PRAGMA wal_checkpoint(RESTART)")
    await commit_changes(running, [Put(uid_container(UID), "0", b"short")])
    shutil.copytree(tmp_path / "running", tmp_path / "crashed")
    running.close()
    found = find_commits(tmp_path / "crashed" / "pykcm.db")
    assert (len(found.frames), found.is_readable) == (1, True)
    assert await start(tmp_path / "crashed", caplog) == ([0, 1, 2, 3, 4], [])


async def test_a_closed_store_has_nothing_to_be_looked_at(
    crashed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an orderly end there is no journal, and a start reads none."""
    open_store(crashed).close()

    def never(_: Path) -> None:
        raise AssertionError("there is nothing")

    monkeypatch.setattr("pykcm.store.sqlcipher.store.find_commits", never)
    assert await start(crashed, caplog) == ([0, 1, 2, 3, 4], [])
