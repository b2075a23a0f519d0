"""Another key for a store in use: nothing is lost, one key is left, and no moment has none that opens."""

import asyncio
import errno
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pykcm.engine.committer import Committer
from pykcm.store.copies import Copied, Rekeyed, StoreBusyError, UnsupportedError
from pykcm.store.disk import CREDENTIAL
from pykcm.store.interface import Entry, StoreError, StoreUnusableError
from pykcm.store.keys import Key, load_key
from pykcm.store.sqlcipher import rekey as rekey_module
from pykcm.store.sqlcipher.backup import backup
from pykcm.store.sqlcipher.database import connect_to_write, set_pragma
from pykcm.store.sqlcipher.key_rotation import pending_key_of
from pykcm.store.sqlcipher.online_copy import HeldCheckpoint
from pykcm.store.sqlcipher.rekey import rekey as change_key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Delete, DeleteContainer, Put, RenameContainer, SecretChange, uid_container
from tests.disk.faults import Call, Faults
from tests.disk.power import Choice, DiskFolder, newest, oldest, torn
from tests.disk.record import Event, Opened, Renamed, Unlinked, read_record, strace, wait_for
from tests.disk.rekeying import (
    BEFORE,
    DATABASE,
    DURING,
    UID,
    open_store,
    prepare,
    put,
    rekey,
    rekeying,
    secrets,
)
from tests.server.waiting import settle, until
from tests.store.sqlcipher.copying import Copying
from tests.storing import commit_changes, secrets_of

NEW = bytes(range(100, 132))
SEED = 20261121


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a store of a few secrets."""
    folder = tmp_path / "state"
    folder.mkdir(0o700)
    asyncio.run(prepare(folder))
    return folder


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key that systemd has given."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    path = folder / CREDENTIAL
    path.write_bytes(bytes(range(32)))
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"acknowledged"}


def opens(database: Path, raw: bytes) -> bool:
    try:
        with_key = SQLCipherStore(database, Key(raw, database.with_name("some")))
    except StoreUnusableError:
        return False
    with_key.close()
    return True


def run(store: SQLCipherStore, raw: bytes | None = None) -> Rekeyed:
    async def run() -> Any:
        return [step async for step in change_key(store, raw)][-1]

    rekeyed = asyncio.run(run())
    assert isinstance(rekeyed, Rekeyed)
    return rekeyed


def refusal(store: SQLCipherStore, kind: type[Exception], raw: bytes | None = None) -> str:
    with pytest.raises(kind) as caught:
        run(store, raw)
    return str(caught.value)


def test_another_key(state: Path) -> None:
    """The key file has another key, which alone opens the database, and all secrets are there in order."""
    old = (state / "key").read_bytes()
    rekeyed = asyncio.run(rekey(state))
    assert (rekeyed.key, rekeyed.is_pending) == (state / "key", False)
    assert files(state) == {"key", DATABASE}
    new = (state / "key").read_bytes()
    assert new != old
    assert (state / "key").stat().st_mode & 0o777 == 0o600
    assert not opens(state / DATABASE, old)
    assert asyncio.run(secrets(state)) == list(range(BEFORE + DURING))


def test_nothing_of_the_old_file_is_left(state: Path) -> None:
    """No page of the old database is in the new one: each is encrypted anew, with a salt of its own."""
    before = (state / DATABASE).read_bytes()
    asyncio.run(rekey(state))
    after = (state / DATABASE).read_bytes()
    blocks = {before[at : at + 16] for at in range(0, len(before), 16)}
    assert not any(after[at : at + 16] in blocks for at in range(0, len(after), 16))


def test_the_store_goes_on(state: Path) -> None:
    """After it the open store reads and commits as before it, and can be given another key again."""
    store = open_store(state)
    for number in range(BEFORE, BEFORE + 3):
        run(store)
        asyncio.run(commit_changes(store, [put(number)]))
        assert len(asyncio.run(secrets_of(store, UID))) == number + 1
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE + 3))


def test_order_and_deletes_meanwhile(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is deleted, replaced and put again while it is copied is as it would be without the copy."""
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

    async def both() -> None:
        steps = change_key(store, None)
        copying = asyncio.ensure_future(anext(steps))
        await until(lambda: store._observer)
        for changes in meanwhile:
            await commit_changes(store, changes)
            await commit_changes(other, changes)
        step = await copying
        while isinstance(step, Copied):
            step = await anext(steps)

    asyncio.run(both())
    assert asyncio.run(secrets_of(store, UID)) == asyncio.run(secrets_of(other, UID))
    store.close()
    other.close()


def test_a_commit_that_is_refused_meanwhile(state: Path) -> None:
    """A commit that fails while it is copied is in neither database."""
    store = open_store(state)

    async def run() -> None:
        steps = change_key(store, None)
        copying = asyncio.ensure_future(anext(steps))
        await until(lambda: store._observer)
        with pytest.raises(StoreError):
            await commit_changes(store, [put(100), Put(uid_container(UID), "bad", None)])  # type: ignore[arg-type]
        step = await copying
        while isinstance(step, Copied):
            step = await anext(steps)

    asyncio.run(run())
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE))


def test_one_at_a_time(state: Path) -> None:
    """While one is under way another one and a backup are refused, and the first is not disturbed."""
    store = open_store(state)

    async def run() -> None:
        steps = change_key(store, None)
        copying = asyncio.ensure_future(anext(steps))
        await until(lambda: store._observer)
        with pytest.raises(StoreBusyError, match="under way"):
            await anext(change_key(store, None))
        with pytest.raises(StoreBusyError, match="under way"):
            async with backup(store):
                pass
        step = await copying
        while isinstance(step, Copied):
            step = await anext(steps)

    asyncio.run(run())
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE))


def test_given_up(state: Path) -> None:
    """Whoever ends it before its end has changed nothing, and nothing is left of it."""
    store = open_store(state)
    before = (state / "key").read_bytes()

    async def run() -> None:
        steps = change_key(store, None)
        copying = asyncio.ensure_future(anext(steps))
        await until((state / "key.next").exists)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        await commit_changes(store, [put(BEFORE)])

    asyncio.run(run())
    assert store._observer is None
    assert files(state) == {"key", DATABASE, DATABASE + "-wal"}
    store.close()
    assert (state / "key").read_bytes() == before
    assert asyncio.run(secrets(state)) == list(range(BEFORE + 1))


def test_nobody_waits_for_the_old_file_to_go(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file's blocks are given back in a thread, behind the pause, and nothing of it stays open."""
    store = open_store(state)
    close = store.close_replaced
    threads: list[bool] = []

    def closed_slowly() -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        assert deleted_databases()
        close()

    monkeypatch.setattr(store, "close_replaced", closed_slowly)
    run(store)
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


def test_a_given_key(state: Path) -> None:
    """A key that is given takes the key file's place."""
    assert asyncio.run(rekey(state, NEW)).key == state / "key"
    assert (state / "key").read_bytes() == NEW
    assert asyncio.run(secrets(state)) == list(range(BEFORE + DURING))


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33)])
def test_a_given_key_of_a_wrong_size(state: Path, raw: bytes) -> None:
    """A key of another size is refused, and nothing has changed."""
    store = open_store(state)
    assert "exactly 32" in refusal(store, UnsupportedError, raw)
    store.close()
    assert files(state) == {"key", DATABASE}


def test_the_same_key(state: Path) -> None:
    """The key that the database has is refused: nothing would be won."""
    store = open_store(state)
    assert "the key that the database has" in refusal(store, UnsupportedError, (state / "key").read_bytes())
    store.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_credential(tmp_path: Path, credential: Path, *, replaced: bool) -> None:
    """With a credential a key must be given; either works until the start with the new one, then it alone."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    asyncio.run(prepare(state))
    assert files(state) == {DATABASE}
    store = open_store(state)
    assert str(credential) in refusal(store, UnsupportedError)
    store.close()
    rekeyed = asyncio.run(rekey(state, NEW))
    assert (rekeyed.is_pending, rekeyed.is_credential, rekeyed.place) == (True, True, credential)
    assert files(state) == {DATABASE, "key.next"}
    assert NEW not in (state / "key.next").read_bytes()
    for _ in range(2):
        assert asyncio.run(secrets(state)) == list(range(BEFORE + DURING))
        assert files(state) == {DATABASE, "key.next"}
    if replaced:
        old = credential.read_bytes()
        credential.write_bytes(NEW)
        assert asyncio.run(secrets(state)) == list(range(BEFORE + DURING))
        assert files(state) == {DATABASE}
        credential.write_bytes(old)
        with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
            open_store(state)


def test_twice_with_a_credential(tmp_path: Path, credential: Path) -> None:
    """A second change is refused until the first one's key is where it belongs: one successor is enough."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    asyncio.run(prepare(state))
    store = open_store(state)
    run(store, NEW)
    assert "has not come to its end" in refusal(store, StoreBusyError, bytes(32))
    store.close()
    credential.write_bytes(NEW)
    store = open_store(state)
    assert run(store, bytes(32)).is_pending
    store.close()


def test_a_successor_for_another_key(state: Path) -> None:
    """With a key that is neither the old nor the new one the start is refused, and nothing is touched."""
    asyncio.run(rekey(state))
    (state / "key").write_bytes(bytes(32))
    pending_key_of(state / DATABASE).write_bytes(os.urandom(4096 * 3))
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
        open_store(state)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def test_no_room(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the copy it is refused before anything is written."""
    store = open_store(state)
    really = os.statvfs

    def full(path: Any) -> os.statvfs_result:
        status = list(really(path))
        status[4] = 10  # f_bavail
        return os.statvfs_result(status)

    monkeypatch.setattr("os.statvfs", full)
    with pytest.raises(StoreError, match="no room") as caught:
        run(store)
    assert caught.value.code == errno.ENOSPC
    store.close()
    assert files(state) == {"key", DATABASE}


def test_a_disk_that_fills_up_meanwhile(
    mount_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a full disk stops it, the answer is ENOSPC and names the disk, and all is as it was."""
    # Others write as well: that there was room at the beginning proves nothing.
    monkeypatch.setattr("pykcm.store.sqlcipher.rekey._ROOM_LEFT", -(2**40))
    state = mount_disk(4096)
    asyncio.run(prepare(state))
    store = open_store(state)
    asyncio.run(
        commit_changes(store, [Put(uid_container(UID + 1), f"{n}", os.urandom(20_000)) for n in range(30)])
    )
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
            run(store)
        except StoreError as error:
            refusals.append(error)
        else:
            break
        assert (state / "key").read_bytes() == before
        assert files(state) - {"ballast", DATABASE + "-wal"} == {"key", DATABASE}
        assert len(asyncio.run(secrets_of(store, UID))) == BEFORE
    else:
        pytest.fail("it never worked")
    assert len(refusals) >= 10
    assert {error.code for error in refusals} == {errno.ENOSPC}
    assert all(str(state) in error.reason and "make room on it" in error.reason for error in refusals)
    ballast.unlink()
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE))


def test_room_that_is_not_known(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is refused to the daemon, as a policy may, it says so, and all is as it was."""

    def refuse(path: Any) -> os.statvfs_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    store = open_store(state)
    monkeypatch.setattr("os.statvfs", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        run(store)
    store.close()
    assert files(state) == {"key", DATABASE}


def test_too_much_meanwhile(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more is written meanwhile than there is room for it gives up, and the commits are there."""
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_RECORDED", 10_000)
    with pytest.raises(StoreError, match="too much was written"):
        asyncio.run(rekey(state))
    assert files(state) == {"key", DATABASE}
    assert asyncio.run(secrets(state)) == list(range(BEFORE + DURING))


@pytest.mark.parametrize("changes", [1, 101, 4096])
def test_rekey_finishes_although_each_turn_brings_many_changes(state: Path, changes: int) -> None:
    """A change of keys comes to its end while somebody commits this many changes in each turn of the loop."""
    store = open_store(state)
    committer = Committer(store)
    most = 2000
    commits = 0

    async def write(rekeyed: "asyncio.Future[Rekeyed]") -> None:
        nonlocal commits
        while not rekeyed.done() and commits < most:
            await committer.commit(
                Entry([Put(uid_container(UID + 1), f"{n}", b"%d" % commits) for n in range(changes)])
            )
            commits += 1
            await asyncio.sleep(0)

    async def change() -> Rekeyed:
        *_, rekeyed = [step async for step in change_key(store, None)]
        assert isinstance(rekeyed, Rekeyed)
        return rekeyed

    async def both() -> Rekeyed:
        rekeyed = asyncio.ensure_future(change())
        await write(rekeyed)
        return await rekeyed

    rekeyed = asyncio.run(asyncio.wait_for(both(), 60))
    assert 0 < commits < most
    assert rekeyed.pause < 1
    written = asyncio.run(secrets_of(store, UID + 1))
    assert {secret.value for secret in written} == {b"%d" % (commits - 1)}
    assert len(written) == changes
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE))


def test_an_error_while_recording_ends_the_rekey_alone(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit whose recording fails is durable and answered so; the change of keys fails, and says why."""
    store = open_store(state)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(HeldCheckpoint, "committed", fail)

    async def run() -> None:
        steps = change_key(store, None)
        copying = asyncio.ensure_future(anext(steps))
        await until(lambda: store._observer)
        await commit_changes(store, [put(BEFORE)])
        await commit_changes(store, [put(BEFORE + 1)])

        async def rest() -> None:
            await copying
            async for _ in steps:
                pass

        with pytest.raises(StoreError, match=f"{state}/{DATABASE}: given up because of an error in pykcm"):
            await rest()

    asyncio.run(run())
    assert "its copy is given up because of an error in pykcm; commits go on" in caplog.text
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE + 2))
    assert files(state) == {"key", DATABASE}


def test_an_error_while_recording_ends_the_backup_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup whose record of the journal fails is given up; the commit is answered as durable."""
    store = open_store(state)

    def fail(_: Path) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    async def run() -> None:
        async with backup(store) as copy:
            with monkeypatch.context() as patched:
                patched.setattr("pykcm.store.sqlcipher.wal.size_of", fail)
                await commit_changes(store, [put(BEFORE)])
            with pytest.raises(StoreError, match="given up because of an error in pykcm"):
                async for _ in copy.pieces():
                    pass

    asyncio.run(run())
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE + 1))


def test_what_was_done_again_leaves_room(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what still has to be done again counts as written meanwhile, not all that ever was."""
    monkeypatch.setattr("pykcm.store.sqlcipher.online_copy._MOST_RECORDED", 10_000)
    store = open_store(state)

    async def run() -> None:
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

    asyncio.run(run())
    store.close()


def test_a_successor_that_cannot_be_removed(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The new key is where the old one was, and that is told; the next start removes what is left."""

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patched:
        patched.setattr("pykcm.store.sqlcipher.key_rotation.remove_pending_key", refuse)
        rekeyed = asyncio.run(rekey(state, NEW))
    assert (rekeyed.key, rekeyed.is_pending) == (state / "key", False)
    assert "the new key cannot be written" not in caplog.text
    assert "key.next: cannot be removed" in caplog.text
    assert files(state) == {"key", DATABASE, "key.next"}
    assert (state / "key").read_bytes() == NEW
    assert asyncio.run(secrets(state)) == list(range(BEFORE + DURING))
    assert files(state) == {"key", DATABASE}


def test_a_long_journal(state: Path, copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long journal is copied the change of keys waits; nothing is lost."""
    begun = []
    follow = rekey_module._Copy.follow

    async def tell(*arguments: Any) -> None:
        begun.append(True)
        await follow(*arguments)

    monkeypatch.setattr(rekey_module._Copy, "follow", tell)

    async def change() -> None:
        rekeying = asyncio.ensure_future(rekey(state))
        await until(lambda: copying.is_asked_for)
        await settle()
        assert not begun
        copying.may_begin.set()
        assert not (await rekeying).is_pending

    asyncio.run(change())
    assert begun
    assert files(state) == {"key", DATABASE}
    assert asyncio.run(secrets(state)) == list(range(BEFORE + DURING))


def test_a_damaged_database(state: Path) -> None:
    """A page that cannot be decrypted is found, and the database is left as it is."""
    store = open_store(state)
    with (state / DATABASE).open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(10))
    refusal(store, StoreError)
    store.close()
    assert files(state) == {"key", DATABASE}


def test_the_database_does_not_open_at_once(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk fails right behind the change, the database is opened as soon as it can be."""
    monkeypatch.setattr("pykcm.store.sqlcipher.store._OPENED_AGAIN_AFTER", 0.01)
    store = open_store(state)
    really: Callable[..., Any] = connect_to_write
    disk = {"fails": True}

    def fails(*arguments: Any) -> Any:
        if disk["fails"]:
            raise sqlite_error()
        return really(*arguments)

    monkeypatch.setattr("pykcm.store.sqlcipher.store.connect_to_write", fails)

    async def change() -> None:
        async for _ in change_key(store, None):
            pass
        with pytest.raises(StoreError):
            await secrets_of(store, UID)
        with pytest.raises(StoreError):
            await commit_changes(store, [put(BEFORE)])
        disk["fails"] = False
        await until(lambda: store._opening is None)
        assert len(await secrets_of(store, UID)) == BEFORE

    asyncio.run(change())
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE))


SETTINGS = ["cipher_hmac_algorithm", "journal_mode", "synchronous", "secure_delete", "temp_store"]
OTHER_SETTINGS = ["wal_autocheckpoint", "query_only", "cache_size"]


@pytest.mark.parametrize("setting", SETTINGS + OTHER_SETTINGS)
def test_nothing_is_committed_by_a_connection_half_set_up(
    state: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """Where one setting of the reopened database fails, requests are refused until all of them are made."""
    monkeypatch.setattr("pykcm.store.sqlcipher.store._OPENED_AGAIN_AFTER", 0.01)
    store = open_store(state)
    disk = {"fails": False}

    def failing(db: Any, name: str, value: str, wanted: object) -> None:
        if disk["fails"] and name == setting:
            raise sqlite_error()
        set_pragma(db, name, value, wanted)

    monkeypatch.setattr("pykcm.store.sqlcipher.wal.set_pragma", failing)
    monkeypatch.setattr("pykcm.store.sqlcipher.database.set_pragma", failing)
    replace = store.replace

    def fail_from_now_on(*arguments: Any) -> None:
        disk["fails"] = True
        replace(*arguments)

    monkeypatch.setattr(store, "replace", fail_from_now_on)

    async def change() -> None:
        async for _ in change_key(store, None):
            pass
        for _ in range(2):
            with pytest.raises(StoreError, match="could not be opened again"):
                await commit_changes(store, [put(BEFORE)])
            with pytest.raises(StoreError, match="could not be opened again"):
                await secrets_of(store, UID)
            with pytest.raises(StoreError, match="could not be opened again"):
                async with backup(store):
                    pass
            await settle()
        disk["fails"] = False
        await until(lambda: store._opening is None)
        await commit_changes(store, [put(BEFORE)])
        settings = [store._db.execute(f"PRAGMA {name}").fetchall() for name in SETTINGS]
        assert settings == [[("HMAC_SHA256",)], [("wal",)], [(2,)], [(1,)], [(2,)]]

    asyncio.run(change())
    store.close()
    assert asyncio.run(secrets(state)) == list(range(BEFORE + 1))


def sqlite_error() -> Exception:
    from sqlcipher3 import dbapi2 as sqlcipher

    error: Exception = sqlcipher.OperationalError("injected")
    return error


# Crashes


def check_after_a_crash(folder: Path) -> None:
    """All that was acknowledged is there, and one key."""
    acknowledged = (folder / "acknowledged").stat().st_size
    found = asyncio.run(secrets(folder))
    # A commit that was under way may be there as well.
    assert found[:acknowledged] == list(range(acknowledged))
    assert len(found) in {acknowledged, acknowledged + 26}
    assert files(folder) == {"key", DATABASE}
    assert opens(folder / DATABASE, (folder / "key").read_bytes())


CALLS = (Call.WRITE, Call.SYNC, Call.TRUNCATE, Call.OPEN, Call.UNLINK)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name.lower())
def test_killed_at_each_call(tmp_path: Path, state: Path, faults_library: Path, call: Call) -> None:
    """Killed before any of its calls to the disk, all that was acknowledged is there, and one key."""
    faults = Faults(faults_library, tmp_path, tmp_path.with_name(tmp_path.name + "-faults"))
    kills = 0
    with rekeying(faults.environment) as processes:
        while True:
            attempt = tmp_path / "attempt"
            shutil.copytree(state, attempt)
            faults.kill(call, skip=kills)
            status = processes.run(attempt)
            hit = faults.hits(call)
            faults.mend()
            check_after_a_crash(attempt)
            shutil.rmtree(attempt)
            if not hit:
                break
            assert status == -9
            kills += 1
    assert status == 0
    assert kills >= 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name.lower())
def test_each_call_fails(tmp_path: Path, state: Path, faults_library: Path, call: Call) -> None:
    """When any of its calls to the disk fails it is taken back, or brought to its end by the next start."""
    faults = Faults(faults_library, tmp_path, tmp_path.with_name(tmp_path.name + "-faults"))
    failures = 0
    with rekeying(faults.environment) as processes:
        while True:
            attempt = tmp_path / "attempt"
            shutil.copytree(state, attempt)
            faults.fail(call, errno.EIO, skip=failures, times=1)
            processes.run(attempt)
            hit = faults.hits(call)
            faults.mend()
            check_after_a_crash(attempt)
            shutil.rmtree(attempt)
            if not hit:
                break
            failures += 1
    assert failures >= 5


@pytest.fixture
def recorded(tmp_path: Path) -> list[Event]:
    """All that a first start, a few commits and a change of keys ask of the disk."""
    folder = tmp_path / "recorded"
    folder.mkdir(0o700)
    record = tmp_path / "record"
    with rekeying({"PREPARE": "1"}, strace(record)) as processes:
        assert processes.run(folder) == 0
    wait_for(record)
    return list(read_record(record, folder))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that no disk has to be waited for."""
    folder = tempfile.mkdtemp(prefix="pykcm-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.mark.timeout(300)
def test_power_cut(memory: Path, recorded: list[Event]) -> None:
    """Wherever power is lost, and whatever the disk keeps then, all that was acknowledged is there."""
    disk = DiskFolder()
    cuts = 0
    begun = False
    for number, event in enumerate(recorded):
        disk.apply(event)
        begun = begun or (isinstance(event, Opened) and event.name == "key.next.new")
        if not begun or (isinstance(event, Opened) and not event.may_make):
            continue
        choices = [oldest, newest, torn(SEED + number)]
        if isinstance(event, Renamed | Unlinked):
            choices += [torn_names(disk, seed, then) for seed in range(20) for then in (oldest, newest)]
        for choose in choices:
            cut(memory / "cut", disk, choose)
            cuts += 1
    assert any(isinstance(event, Renamed) and event.new == DATABASE for event in recorded)
    assert cuts > 100


def torn_names(disk: DiskFolder, seed: int, contents: Choice) -> Choice:
    """Any of the names that came and went; what is in the files is chosen by `contents`."""
    names = len(disk._names_before)
    rng = random.Random(seed)

    def choose(states: int) -> int:
        nonlocal names
        names -= 1
        return rng.randrange(states) if names >= 0 else contents(states)

    return choose


def cut(folder: Path, disk: DiskFolder, choose: Choice) -> None:
    disk.write_left(folder, choose)
    # What was acknowledged is known to others: no disk can lose it.
    (folder / "acknowledged").write_bytes(bytes(disk.names["acknowledged"].now))
    check_after_a_crash(folder)
    assert load_key(folder / "key", may_create=False)
    shutil.rmtree(folder)
