"""The change of keys of a store in use: no secret is lost, and the store goes on."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pykcm.engine.committer import Committer
from pykcm.store.copies import StoreBusyError
from pykcm.store.interface import Entry, StoreError
from pykcm.store.sqlcipher import rekey as rekey_module
from pykcm.store.sqlcipher.backup import backup
from pykcm.store.sqlcipher.online_copy import HeldCheckpoint
from pykcm.store.sqlcipher.rekey import rekey as change_key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Delete, DeleteContainer, Put, RenameContainer, SecretChange, uid_container
from tests.disk.rekeying import (
    BEFORE,
    DATABASE,
    DURING,
    UID,
    change,
    files,
    open_store,
    opens,
    prepare,
    put,
    refusal,
    rekey,
    secrets,
)
from tests.server.waiting import settle, until
from tests.store.sqlcipher.copying import Copying
from tests.storing import commit_changes, secrets_of


@asynccontextmanager
async def copied_by_rekey(store: SQLCipherStore) -> AsyncIterator[None]:
    """Within `async with`, a rekey copies the database; then it is brought to its end."""
    steps = change_key(store, None)
    copying = asyncio.ensure_future(anext(steps))
    await until(lambda: store._observer)
    yield
    await copying
    async for _ in steps:
        pass


async def test_rekey_replaces_the_key_and_keeps_all_secrets(state: Path) -> None:
    """The key file has another key, which alone opens the database, and all secrets are there in order."""
    old = (state / "key").read_bytes()
    rekeyed = await rekey(state)
    assert (rekeyed.key, rekeyed.is_pending) == (state / "key", False)
    assert files(state) == {"key", DATABASE}
    new = (state / "key").read_bytes()
    assert new != old
    assert (state / "key").stat().st_mode & 0o777 == 0o600
    assert not opens(state / DATABASE, old)
    assert await secrets(state) == list(range(BEFORE + DURING))


async def test_no_page_of_the_old_database_is_left(state: Path) -> None:
    """No page of the old database is in the new one: each has a new salt."""
    before = (state / DATABASE).read_bytes()
    await rekey(state)
    after = (state / DATABASE).read_bytes()
    blocks = {before[at : at + 16] for at in range(0, len(before), 16)}
    assert not any(after[at : at + 16] in blocks for at in range(0, len(after), 16))


async def test_store_goes_on_after_each_rekey(state: Path) -> None:
    """The open store reads and commits as before, and accepts another rekey."""
    store = open_store(state)
    for number in range(BEFORE, BEFORE + 3):
        await change(store)
        await commit_changes(store, [put(number)])
        assert len(await secrets_of(store, UID)) == number + 1
    store.close()
    assert await secrets(state) == list(range(BEFORE + 3))


async def test_changes_during_the_copy_are_repeated_in_order(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets deleted, replaced and put again during the copy are as they would be without it."""
    container = uid_container(UID)
    meanwhile: list[list[SecretChange]] = [
        [Delete(container, "0"), put(0)],
        [Put(container, "3", b"replaced")],
        [Put(container + "/below", "one", b"1"), Put(container + "/below", "two", b"2")],
        [DeleteContainer(container + "/below")],
        [Put(container + "/below", "three", b"3")],
        [RenameContainer(container + "/below", container + "/renamed"), Put(container + "/below", "4", b"4")],
        [Delete(container, "5")],
    ]
    shutil.copytree(state, state.with_name("other"))
    store, other = open_store(state), open_store(state.with_name("other"))
    async with copied_by_rekey(store):
        for changes in meanwhile:
            await commit_changes(store, changes)
            await commit_changes(other, changes)
    assert await secrets_of(store, UID) == await secrets_of(other, UID)
    store.close()
    other.close()


async def test_commit_refused_during_the_copy_is_in_neither_database(state: Path) -> None:
    """A commit that fails during the copy is in neither database."""
    store = open_store(state)
    async with copied_by_rekey(store):
        with pytest.raises(StoreError):
            await commit_changes(store, [put(100), Put(uid_container(UID), "bad", None)])  # type: ignore[arg-type]
    store.close()
    assert await secrets(state) == list(range(BEFORE))


async def test_second_copy_is_refused_during_a_rekey(state: Path) -> None:
    """Another rekey and a backup are refused, and do not disturb the first one."""
    store = open_store(state)
    async with copied_by_rekey(store):
        with pytest.raises(StoreBusyError, match="under way"):
            await anext(change_key(store, None))
        with pytest.raises(StoreBusyError, match="under way"):
            async with backup(store):
                pass
    store.close()
    assert await secrets(state) == list(range(BEFORE))


async def test_cancelled_rekey_changes_nothing(state: Path) -> None:
    """A rekey that is cancelled before its end leaves the key and the secrets, and no files."""
    store = open_store(state)
    before = (state / "key").read_bytes()
    steps = change_key(store, None)
    copying = asyncio.ensure_future(anext(steps))
    await until((state / "key.next").exists)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    await commit_changes(store, [put(BEFORE)])
    assert store._observer is None
    assert files(state) == {"key", DATABASE, DATABASE + "-wal"}
    store.close()
    assert (state / "key").read_bytes() == before
    assert await secrets(state) == list(range(BEFORE + 1))


async def test_old_file_is_closed_in_a_thread(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread frees the old file's blocks after the pause, and no descriptor of it stays open."""
    store = open_store(state)
    close = store.close_replaced
    threads: list[bool] = []

    def closed_slowly() -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        assert deleted_databases()
        close()

    monkeypatch.setattr(store, "close_replaced", closed_slowly)
    await change(store)
    assert threads == [False]
    assert deleted_databases() == []
    monkeypatch.undo()
    store.close()


def deleted_databases() -> list[str]:
    """Databases that this process has open, and that have no name any more."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(link.readlink()))
    return [each for each in links if each.endswith(f"{DATABASE} (deleted)")]


async def test_rekey_without_room_for_the_copy_is_refused(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the copy a rekey is refused before it writes anything."""
    store = open_store(state)
    really = os.statvfs

    def full(path: Any) -> os.statvfs_result:
        status = list(really(path))
        status[4] = 10  # f_bavail
        return os.statvfs_result(status)

    monkeypatch.setattr("os.statvfs", full)
    with pytest.raises(StoreError, match="no room") as caught:
        await change(store)
    assert caught.value.code == errno.ENOSPC
    store.close()
    assert files(state) == {"key", DATABASE}


async def test_full_disk_during_a_rekey_changes_nothing(
    mount_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a full disk stops a rekey, the answer is ENOSPC and names the disk."""
    # Others write as well: that there was room at the beginning proves nothing.
    monkeypatch.setattr("pykcm.store.sqlcipher.rekey._ROOM_LEFT", -(2**40))
    state = mount_disk(4096)
    await prepare(state)
    store = open_store(state)
    await commit_changes(store, [Put(uid_container(UID + 1), f"{n}", os.urandom(20_000)) for n in range(30)])
    store.wal.empty()
    size = store.path.stat().st_size
    before = (state / "key").read_bytes()
    ballast = state / "ballast"
    refusals: list[StoreError] = []
    for free in range(0, 2 * size, 40 * 1024):
        ballast.write_bytes(b"")
        room = os.statvfs(state).f_bavail * os.statvfs(state).f_frsize
        ballast.write_bytes(bytes(room - free))
        try:
            await change(store)
        except StoreError as error:
            refusals.append(error)
        else:
            break
        assert (state / "key").read_bytes() == before
        assert files(state) - {"ballast", DATABASE + "-wal"} == {"key", DATABASE}
        assert len(await secrets_of(store, UID)) == BEFORE
    else:
        pytest.fail("it never worked")
    assert len(refusals) >= 10
    assert {error.code for error in refusals} == {errno.ENOSPC}
    assert all(str(state) in error.reason and "make room on it" in error.reason for error in refusals)
    ballast.unlink()
    store.close()
    assert await secrets(state) == list(range(BEFORE))


async def test_rekey_is_refused_if_the_free_space_is_unknown(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy may refuse statvfs: the refusal says so, and nothing has changed."""

    def refuse(path: Any) -> os.statvfs_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    store = open_store(state)
    monkeypatch.setattr("os.statvfs", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        await change(store)
    store.close()
    assert files(state) == {"key", DATABASE}


async def test_rekey_is_given_up_if_too_much_is_written_meanwhile(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rekey is given up, and the commits are there."""
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_RECORDED", 10_000)
    with pytest.raises(StoreError, match="too much was written"):
        await rekey(state)
    assert files(state) == {"key", DATABASE}
    assert await secrets(state) == list(range(BEFORE + DURING))


@pytest.mark.parametrize("changes", [1, 101, 4096])
async def test_rekey_finishes_although_each_iteration_brings_many_changes(
    state: Path, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rekey comes to its end while each iteration of the event loop commits this many changes."""
    store = open_store(state)
    committer = Committer(store)
    most = 2000
    commits = commits_while_following = 0
    is_following = False
    follow = rekey_module._Copy.follow

    async def tell(*arguments: Any) -> None:
        nonlocal is_following
        is_following = True
        await follow(*arguments)
        is_following = False

    monkeypatch.setattr(rekey_module._Copy, "follow", tell)
    rekeying = asyncio.ensure_future(change(store))
    # Any number of commits may come while a thread copies the database.
    while not rekeying.done() and commits_while_following < most:
        await committer.commit(
            Entry([Put(uid_container(UID + 1), f"{n}", b"%d" % commits) for n in range(changes)])
        )
        commits += 1
        commits_while_following += is_following
        await asyncio.sleep(0)
    rekeyed = await rekeying
    assert commits > 0
    assert commits_while_following < most
    assert rekeyed.pause < 1
    written = await secrets_of(store, UID + 1)
    assert {secret.value for secret in written} == {b"%d" % (commits - 1)}
    assert len(written) == changes
    store.close()
    assert await secrets(state) == list(range(BEFORE))


async def test_error_while_recording_ends_only_the_rekey(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that cannot be recorded is durable and answered so; the rekey fails and says why."""
    store = open_store(state)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(HeldCheckpoint, "committed", fail)
    with pytest.raises(StoreError, match="given up because of an error in pykcm") as caught:  # noqa: PT012
        async with copied_by_rekey(store):
            await commit_changes(store, [put(BEFORE)])
            await commit_changes(store, [put(BEFORE + 1)])
    assert caught.value.reason.startswith(f"{state}/{DATABASE}: ")
    assert "its copy is given up because of an error in pykcm; commits go on" in caplog.text
    store.close()
    assert await secrets(state) == list(range(BEFORE + 2))
    assert files(state) == {"key", DATABASE}


async def test_error_while_measuring_the_log_ends_only_the_backup(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup is given up; the commit is answered as durable."""
    store = open_store(state)

    def fail(_: Path) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    async with backup(store) as copy:
        with monkeypatch.context() as patched:
            patched.setattr("pykcm.store.sqlcipher.wal.size_of", fail)
            await commit_changes(store, [put(BEFORE)])
        with pytest.raises(StoreError, match="given up because of an error in pykcm"):
            async for _ in copy.pieces():
                pass
    store.close()
    assert await secrets(state) == list(range(BEFORE + 1))


async def test_repeated_changes_no_longer_count_as_written(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only changes that still have to be repeated count as written meanwhile."""
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_RECORDED", 10_000)
    store = open_store(state)
    async with HeldCheckpoint(store, records=True) as still:
        still.release()
        for number in range(10):
            await commit_changes(store, [Put(uid_container(UID), f"{number}", bytes(6000))])
            assert still.take() is not None
            assert still.take() is None
        still.check()
        for number in range(2):
            await commit_changes(store, [Put(uid_container(UID), f"{number}", bytes(6000))])
        with pytest.raises(StoreError, match="too much was written"):
            still.check()
    store.close()


async def test_rekey_waits_for_the_copy_of_a_long_log(
    state: Path, copying: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a long write-ahead log is copied the rekey waits; nothing is lost."""
    begun = []
    follow = rekey_module._Copy.follow

    async def tell(*arguments: Any) -> None:
        begun.append(True)
        await follow(*arguments)

    monkeypatch.setattr(rekey_module._Copy, "follow", tell)
    rekeying = asyncio.ensure_future(rekey(state))
    await until(lambda: copying.is_asked_for)
    await settle()
    assert not begun
    copying.may_begin.set()
    assert not (await rekeying).is_pending
    assert begun
    assert files(state) == {"key", DATABASE}
    assert await secrets(state) == list(range(BEFORE + DURING))


async def test_rekey_of_a_damaged_database_is_refused(state: Path) -> None:
    """A page that cannot be decrypted is found, and the database stays as it is."""
    store = open_store(state)
    with (state / DATABASE).open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(10))
    await refusal(store, StoreError)
    store.close()
    assert files(state) == {"key", DATABASE}
