"""The store's key: from a systemd credential, else from a file that is made once."""

import os
from pathlib import Path

import pytest

from pykcm.store.disk import CREDENTIAL, KEY_SIZE
from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import Key, load_key
from tests.acls import let_read

RAW = bytes(range(32))


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where the key file belongs; it is not there yet."""
    return tmp_path / "key"


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where systemd puts the credential; it is not there yet."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder / CREDENTIAL


def write(path: Path, raw: bytes = RAW, mode: int = 0o600) -> None:
    path.write_bytes(raw)
    path.chmod(mode)


def refusal(key_file: Path, *, may_create: bool = False) -> str:
    with pytest.raises(StoreUnusableError) as caught:
        load_key(key_file, may_create=may_create)
    return str(caught.value)


def test_made_at_first_start(key_file: Path) -> None:
    """Without a database a missing key is made: 32 bytes, private, and the same at the next start."""
    before = os.umask(0)
    try:
        key = load_key(key_file, may_create=True)
    finally:
        os.umask(before)
    assert (len(key.raw), key.source, key.is_new) == (KEY_SIZE, key_file, True)
    assert key_file.stat().st_mode & 0o7777 == 0o600
    assert key_file.read_bytes() == key.raw
    assert [path.name for path in key_file.parent.iterdir()] == ["key"]
    for may_create in (True, False):
        assert load_key(key_file, may_create=may_create) == key._replace(is_new=False)


def test_every_key_is_another(tmp_path: Path) -> None:
    """Two installations have different keys."""
    one, other = (load_key(tmp_path / name, may_create=True) for name in ("one", "other"))
    assert one.raw != other.raw


def test_an_unfinished_key_is_made_anew(key_file: Path) -> None:
    """What an interrupted first start left behind is neither taken nor in the way."""
    key_file.with_name("key.new").write_bytes(b"unfinished")
    key = load_key(key_file, may_create=True)
    assert len(key.raw) == KEY_SIZE
    assert [path.name for path in key_file.parent.iterdir()] == ["key"]


def test_never_made_beside_a_database(key_file: Path) -> None:
    """A database without its key is refused, and no new key is made: it could not be the right one."""
    message = refusal(key_file)
    assert str(key_file) in message
    assert "no key" in message
    assert not key_file.exists()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_modes(key_file: Path, mode: int) -> None:
    """A key that only its owner can read is taken."""
    write(key_file, mode=mode)
    assert load_key(key_file, may_create=False).raw == RAW


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_modes_that_are_not_private(key_file: Path, mode: int) -> None:
    """A key that others have any access to is refused, with the mode and the way out."""
    write(key_file, mode=mode)
    message = refusal(key_file, may_create=True)
    assert str(key_file) in message
    assert f"{mode:04o}" in message
    assert "chmod 0600" in message


def test_someone_else_on_a_list(key_file: Path) -> None:
    """A key that an access control list lets another user read is refused like any that others may read."""
    write(key_file)
    let_read(key_file, 20001)
    assert "chmod 0600" in refusal(key_file)


def test_a_link_to_it(key_file: Path) -> None:
    """A symbolic link is followed, and what it leads to must be as private as any key."""
    elsewhere = key_file.with_name("elsewhere")
    write(elsewhere)
    key_file.symlink_to(elsewhere)
    assert load_key(key_file, may_create=False) == Key(RAW, key_file)
    elsewhere.chmod(0o644)
    assert "0644" in refusal(key_file)
    elsewhere.unlink()
    assert "no key" in refusal(key_file)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 1 << 20])
def test_wrong_sizes(key_file: Path, size: int) -> None:
    """A key of any other size is refused, and nothing of it is shown."""
    write(key_file, b"K" * size)
    message = refusal(key_file, may_create=True)
    assert str(key_file) in message
    assert ("more than 32" if size > KEY_SIZE else f"{size} bytes") in message
    assert "exactly 32" in message
    assert "KK" not in message
    assert key_file.stat().st_size == size


def test_a_pipe_in_its_place(key_file: Path) -> None:
    """A pipe where the key belongs is refused, and nobody waits for what comes out of it."""
    os.mkfifo(key_file, 0o600)
    assert "not a regular file" in refusal(key_file)


def test_a_folder_in_its_place(key_file: Path) -> None:
    """A folder where the key belongs is refused."""
    key_file.mkdir(0o700)
    assert str(key_file) in refusal(key_file)


def test_no_folder_to_make_it_in(tmp_path: Path) -> None:
    """A key that cannot be made is refused for what hinders it, and not for a database that is not there."""
    key_file = tmp_path / "missing" / "key"
    message = refusal(key_file, may_create=True)
    assert str(tmp_path / "missing") in message
    assert "there is a database" not in message


def test_a_file_above_it(tmp_path: Path) -> None:
    """A file where the key's folder should be is refused, with or without a database."""
    (tmp_path / "file").touch()
    for may_create in (True, False):
        message = refusal(tmp_path / "file" / "key", may_create=may_create)
        assert str(tmp_path / "file" / "key") in message
        assert "Not a directory" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_someone_elses_key(key_file: Path) -> None:
    """A key that belongs to another user is refused."""
    write(key_file)
    os.chown(key_file, 20001, 20001)
    message = refusal(key_file)
    assert str(key_file) in message
    assert "belongs to UID 20001" in message
    assert "chown" in message


def test_a_full_disk(full_disk: Path) -> None:
    """Where a key cannot be written whole, none is there afterwards."""
    message = refusal(full_disk / "key", may_create=True)
    assert "No space left on device" in message
    assert not (full_disk / "key").exists()


def test_credential(credential: Path, key_file: Path) -> None:
    """A credential from systemd is the key; a key file is neither needed nor made."""
    write(credential, mode=0o440)
    assert load_key(key_file, may_create=True) == Key(RAW, credential)
    assert not key_file.exists()


def test_credential_goes_first(credential: Path, key_file: Path) -> None:
    """A credential from systemd counts where there is a key file as well."""
    write(credential)
    write(key_file, bytes(32))
    assert load_key(key_file, may_create=False).raw == RAW


def test_another_credential(credential: Path, key_file: Path) -> None:
    """A service with other credentials has its key in the file."""
    write(credential.with_name("another"))
    write(key_file)
    assert load_key(key_file, may_create=False) == Key(RAW, key_file)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_credential_of_wrong_size(credential: Path, key_file: Path, size: int) -> None:
    """A credential of the wrong size is refused: the key file is no way around it."""
    write(credential, bytes(size))
    write(key_file)
    assert str(credential) in refusal(key_file)


def test_a_key_is_not_shown() -> None:
    """A key says where it came from and nothing of itself."""
    key = Key(b"K" * 32, Path("/etc/pykcm/key"))
    assert repr(key) == str(key) == "<Key from /etc/pykcm/key>"


def test_a_credential_that_cannot_be_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be told whether there is a credential, no other key is taken instead."""
    credentials = tmp_path / ("x" * 300)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with pytest.raises(StoreUnusableError, match="File name too long"):
        load_key(tmp_path / "key", may_create=True)
    assert not (tmp_path / "key").exists()
