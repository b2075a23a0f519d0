"""A write-ahead log that is damaged after a crash: the start warns of lost commits, and only of those."""

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
    """The files that a crash leaves of a store with five commits in its log."""
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
    """Damage one byte of the log."""
    with (state / "pykcm.db-wal").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def at(frame: int) -> int:
    """The offset of a frame."""
    return HEADER + (frame - 1) * (FRAME + PAGE)


async def test_crash_is_no_damage(crashed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a crash everything is there, without a warning."""
    assert await start(crashed, caplog) == ([0, 1, 2, 3, 4], [])
    assert await start(crashed, caplog) == ([0, 1, 2, 3, 4, 100], [])


@pytest.mark.parametrize("where", ["page", "salt", "checksum", "number"])
@pytest.mark.parametrize("change", range(COMMITS))
async def test_warning_counts_the_lost_commits(
    crashed: Path, caplog: pytest.LogCaptureFixture, change: int, where: str
) -> None:
    """Damage in a frame loses its commit and all later ones, and the warning says how many."""
    first = [0, *ends(crashed)][change] + 1
    flip(crashed, at(first) + {"number": 0, "salt": 8, "checksum": 16, "page": FRAME + 100}[where])
    numbers, (warning,) = await start(crashed, caplog)
    assert numbers == list(range(change))
    assert f"there are {COMMITS - change} more" in warning
    assert str(crashed / "pykcm.db") in warning
    assert "see to the disk" in warning


@pytest.mark.parametrize("offset", [0, 8, 16, 20, 24, 28])
async def test_damaged_header_loses_all_commits(
    crashed: Path, caplog: pytest.LogCaptureFixture, offset: int
) -> None:
    """Without its header the log is not read: all five commits are lost."""
    flip(crashed, offset)
    numbers, (warning,) = await start(crashed, caplog)
    assert numbers == []
    assert f"there are {COMMITS} more" in warning


@pytest.mark.parametrize("damaged", ["header", "first frame"])
async def test_refused_start_leaves_a_damaged_log(
    crashed: Path, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    """A start without the right key changes nothing; one with it warns of the damage."""
    flip(crashed, 24 if damaged == "header" else at(1) + FRAME + 100)
    key = (crashed / "key").read_bytes()
    log_file = (crashed / "pykcm.db-wal").read_bytes()
    (crashed / "key").write_bytes(bytes(32))
    with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
        open_store(crashed)
    assert (crashed / "pykcm.db-wal").read_bytes() == log_file
    (crashed / "key").write_bytes(key)
    numbers, (warning,) = await start(crashed, caplog)
    assert numbers == []
    assert f"there are {COMMITS} more" in warning


async def test_incomplete_commit_is_no_damage(crashed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A commit that a kill interrupted, at any of its frames or in one, was not acknowledged: no warning."""
    log_file = crashed / "pykcm.db-wal"
    whole = log_file.read_bytes()
    database = (crashed / "pykcm.db").read_bytes()
    *_, before, last = ends(crashed)
    for frame in range(before + 1, last + 1):
        for more in (0, FRAME, FRAME + 100):
            (crashed / "pykcm.db").write_bytes(database)
            log_file.write_bytes(whole[: at(frame) + more])
            numbers, warnings = await start(crashed, caplog)
            assert numbers == [0, 1, 2, 3]
            # Cut in its last frame, the change is told: nobody knows that it was not acknowledged.
            assert len(warnings) == (frame == last and more > 0)


async def test_older_generation_of_the_log_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Frames of the log from before a checkpoint do not count."""
    (tmp_path / "running").mkdir()
    running = open_store(tmp_path / "running")
    for number in range(COMMITS):
        await commit_changes(running, [put(number)])
    # Copied into the database, but not truncated: the next commit begins the log again.
    running._db.execute("PRAGMA wal_checkpoint(RESTART)")
    await commit_changes(running, [Put(uid_container(UID), "0", b"short")])
    shutil.copytree(tmp_path / "running", tmp_path / "crashed")
    running.close()
    found = find_commits(tmp_path / "crashed" / "pykcm.db")
    assert (len(found.frames), found.is_readable) == (1, True)
    assert await start(tmp_path / "crashed", caplog) == ([0, 1, 2, 3, 4], [])


async def test_start_after_a_close_reads_no_log(
    crashed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an orderly close there is no log, and a start reads none."""
    open_store(crashed).close()

    def never(_: Path) -> None:
        raise AssertionError("there is nothing")

    monkeypatch.setattr("pykcm.store.sqlcipher.store.find_commits", never)
    assert await start(crashed, caplog) == ([0, 1, 2, 3, 4], [])
