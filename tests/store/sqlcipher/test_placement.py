"""The database is unlinked, moved or replaced beneath the store: changes are refused, reads go on."""

import errno
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pykcm.store.interface import StoreError
from pykcm.store.keys import load_key
from pykcm.store.sqlcipher.backup import backup
from pykcm.store.sqlcipher.placement import Placement
from pykcm.store.sqlcipher.rekey import rekey as change_key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, uid_container
from tests.builders import Clock
from tests.storing import commit_changes, secrets_of

UID = 1000


def put(number: int) -> Put:
    return Put(uid_container(UID), f"{number}", b"value")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder, by way of a symbolic link."""
    (tmp_path / "really").mkdir()
    (tmp_path / "state").symlink_to("really")
    return tmp_path / "state"


@pytest.fixture
async def store(state: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLCipherStore]:
    """A store with one secret, which looks at its files before each commit."""
    monkeypatch.setattr("pykcm.store.sqlcipher.placement._LOOKED_AT_EVERY", 0.0)
    store = SQLCipherStore(state / "pykcm.db", load_key(state / "key", may_create=True))
    await commit_changes(store, [put(1)])
    yield store
    store.close()


def unlink(name: str) -> Callable[[Path], object]:
    return lambda state: (state / name).unlink()


def move(name: str) -> Callable[[Path], object]:
    return lambda state: (state / name).rename(state / "elsewhere")


def replace(name: str) -> Callable[[Path], None]:
    def replaced(state: Path) -> None:
        (state / "another").write_bytes((state / name).read_bytes())
        (state / "another").rename(state / name)

    return replaced


def move_folder(state: Path) -> None:
    state.resolve().rename(state.parent / "elsewhere")


def replace_folder(state: Path) -> None:
    move_folder(state)
    state.resolve().mkdir()


def another_link(state: Path) -> None:
    (state.parent / "other").mkdir()
    state.unlink()
    state.symlink_to("other")


BENEATH = [
    unlink("pykcm.db"),
    move("pykcm.db"),
    replace("pykcm.db"),
    unlink("pykcm.db-wal"),
    replace("pykcm.db-wal"),
    move_folder,
    replace_folder,
    another_link,
]
IDS = [
    "unlink",
    "move",
    "replace",
    "unlink journal",
    "replace journal",
    "move folder",
    "replace folder",
    "link",
]


@pytest.mark.parametrize("happens", BENEATH, ids=IDS)
async def test_changes_are_refused_and_reads_go_on(
    store: SQLCipherStore, state: Path, caplog: pytest.LogCaptureFixture, happens: Callable[[Path], object]
) -> None:
    """If the files lose their names, changes are EIO and say why, once in the log; reads go on."""
    happens(state)
    for _ in range(2):
        with pytest.raises(StoreError, match="changes are refused") as caught:
            await commit_changes(store, [put(2)])
        assert caught.value.code == errno.EIO
        assert str(state / "pykcm.db") in caught.value.reason
        assert [secret.name for secret in await secrets_of(store, UID)] == ["1"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert line.startswith(str(state / "pykcm.db"))
    assert "pykcmctl export" in line


@pytest.mark.parametrize("happens", BENEATH, ids=IDS)
async def test_no_copy_of_a_misplaced_database(
    store: SQLCipherStore, state: Path, happens: Callable[[Path], object]
) -> None:
    """A backup and a change of keys are refused as well, and make no file."""

    async def rekey() -> None:
        async for _ in change_key(store, None):
            pass

    async def back_up() -> None:
        async with backup(store):
            pass

    happens(state)
    with pytest.raises(StoreError, match="changes are refused"):
        await back_up()
    with pytest.raises(StoreError, match="changes are refused"):
        await rekey()
    assert not list(state.parent.glob("**/*.new"))
    assert not list(state.parent.glob("**/key.next"))


async def test_changes_are_accepted_when_the_folder_is_back(
    store: SQLCipherStore, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store goes on, and no acknowledged secret is missing."""
    really = state.resolve()
    move_folder(state)
    with pytest.raises(StoreError):
        await commit_changes(store, [put(2)])
    (state.parent / "elsewhere").rename(really)
    await commit_changes(store, [put(3)])
    assert "is in its place again: changes are accepted" in caplog.text
    store.close()
    again = SQLCipherStore(store.path, store.key)
    assert [secret.name for secret in await secrets_of(again, UID)] == ["1", "3"]
    again.close()


async def test_rekey_does_not_count_as_another_file(store: SQLCipherStore) -> None:
    """The store itself may replace its database."""
    for number in (2, 3):
        async for _ in change_key(store, None):
            pass
        await commit_changes(store, [put(number)])


def test_files_are_checked_at_most_once_a_second(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of commits checks the files once a second, and the next second again."""
    (state / "pykcm.db").touch()
    clock = Clock(100)
    monkeypatch.setattr("pykcm.store.sqlcipher.placement.time.monotonic", clock)
    placement = Placement(state / "pykcm.db")
    placement.check()
    (state / "pykcm.db").unlink()
    clock.now = 100.9
    placement.check()
    clock.now = 101
    with pytest.raises(StoreError):
        placement.check()
    (state / "pykcm.db").touch()
    clock.now = 101.9
    with pytest.raises(StoreError):
        placement.check()
