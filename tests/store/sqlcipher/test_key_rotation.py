"""The keys of a rekey: one is left, and at every moment one opens the database."""

import errno
import os
from pathlib import Path

import pytest

from pykcm.store.copies import StoreBusyError, UnsupportedError
from pykcm.store.disk import CREDENTIAL
from pykcm.store.interface import StoreUnusableError
from pykcm.store.sqlcipher.key_rotation import pending_key_of
from tests.disk.rekeying import (
    BEFORE,
    DATABASE,
    DURING,
    change,
    files,
    open_store,
    prepare,
    refusal,
    rekey,
    secrets,
)

NEW = bytes(range(100, 132))


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key that systemd has given."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    path = folder / CREDENTIAL
    path.write_bytes(bytes(range(32)))
    return path


async def test_given_key_replaces_the_key_file(state: Path) -> None:
    """The given key takes the place of the key file."""
    assert (await rekey(state, NEW)).key == state / "key"
    assert (state / "key").read_bytes() == NEW
    assert await secrets(state) == list(range(BEFORE + DURING))


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33)])
async def test_given_key_of_a_wrong_size_is_refused(state: Path, raw: bytes) -> None:
    """A key of another size is refused, and nothing has changed."""
    store = open_store(state)
    assert "exactly 32" in await refusal(store, UnsupportedError, raw)
    store.close()
    assert files(state) == {"key", DATABASE}


async def test_present_key_is_refused(state: Path) -> None:
    """A rekey with the key that the database has is refused."""
    store = open_store(state)
    assert "the key that the database has" in await refusal(
        store, UnsupportedError, (state / "key").read_bytes()
    )
    store.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_either_key_works_until_the_credential_is_replaced(
    tmp_path: Path, credential: Path, *, replaced: bool
) -> None:
    """With a credential a key must be given. Either key works until a start with the new one."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    await prepare(state)
    assert files(state) == {DATABASE}
    store = open_store(state)
    assert str(credential) in await refusal(store, UnsupportedError)
    store.close()
    rekeyed = await rekey(state, NEW)
    assert (rekeyed.is_pending, rekeyed.is_credential, rekeyed.place) == (True, True, credential)
    assert files(state) == {DATABASE, "key.next"}
    assert NEW not in (state / "key.next").read_bytes()
    for _ in range(2):
        assert await secrets(state) == list(range(BEFORE + DURING))
        assert files(state) == {DATABASE, "key.next"}
    if replaced:
        old = credential.read_bytes()
        credential.write_bytes(NEW)
        assert await secrets(state) == list(range(BEFORE + DURING))
        assert files(state) == {DATABASE}
        credential.write_bytes(old)
        with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
            open_store(state)


async def test_second_rekey_is_refused_while_a_key_is_pending(tmp_path: Path, credential: Path) -> None:
    """A second rekey is refused until the first one's key is in its place."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    await prepare(state)
    store = open_store(state)
    await change(store, NEW)
    assert "has not come to its end" in await refusal(store, StoreBusyError, bytes(32))
    store.close()
    credential.write_bytes(NEW)
    store = open_store(state)
    assert (await change(store, bytes(32))).is_pending
    store.close()


async def test_start_with_a_third_key_is_refused_and_changes_nothing(state: Path) -> None:
    """With a key that is neither the old nor the new one the start is refused and touches nothing."""
    await rekey(state)
    (state / "key").write_bytes(bytes(32))
    pending_key_of(state / DATABASE).write_bytes(os.urandom(4096 * 3))
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    with pytest.raises(StoreUnusableError, match="cannot be decrypted"):
        open_store(state)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


async def test_next_start_removes_a_pending_key_that_could_not_be_removed(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The new key is in its place and the log names the file left; the next start removes it."""

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patched:
        patched.setattr("pykcm.store.sqlcipher.key_rotation.remove_pending_key", refuse)
        rekeyed = await rekey(state, NEW)
    assert (rekeyed.key, rekeyed.is_pending) == (state / "key", False)
    assert "the new key cannot be written" not in caplog.text
    assert "key.next: cannot be removed" in caplog.text
    assert files(state) == {"key", DATABASE, "key.next"}
    assert (state / "key").read_bytes() == NEW
    assert await secrets(state) == list(range(BEFORE + DURING))
    assert files(state) == {"key", DATABASE}
