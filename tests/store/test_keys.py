"""The store's key: from a systemd credential, else from a file that is made once."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

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
    """The path of the key file, which does not exist yet."""
    return tmp_path / "key"


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the credential, which does not exist yet."""
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


def test_first_start_creates_a_private_key(key_file: Path) -> None:
    """Without a database a missing key is created: 32 bytes, private, and the same at the next start."""
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
        assert load_key(key_file, may_create=may_create) == replace(key, is_new=False)


def test_two_installations_have_different_keys(tmp_path: Path) -> None:
    """Two created keys differ."""
    one, other = (load_key(tmp_path / name, may_create=True) for name in ("one", "other"))
    assert one.raw != other.raw


def test_unfinished_key_is_replaced(key_file: Path) -> None:
    """An incomplete file of an interrupted first start is neither used nor in the way."""
    key_file.with_name("key.new").write_bytes(b"unfinished")
    key = load_key(key_file, may_create=True)
    assert len(key.raw) == KEY_SIZE
    assert [path.name for path in key_file.parent.iterdir()] == ["key"]


def test_key_is_not_created_beside_a_database(key_file: Path) -> None:
    """A database without its key is refused, because a new key would be wrong."""
    message = refusal(key_file)
    assert str(key_file) in message
    assert "no key" in message
    assert not key_file.exists()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_key_with_a_private_mode_is_read(key_file: Path, mode: int) -> None:
    """A key that only its owner can read is accepted."""
    write(key_file, mode=mode)
    assert load_key(key_file, may_create=False).raw == RAW


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_key_that_others_can_access_is_refused(key_file: Path, mode: int) -> None:
    """The message has the mode and says what to do."""
    write(key_file, mode=mode)
    message = refusal(key_file, may_create=True)
    assert str(key_file) in message
    assert f"{mode:04o}" in message
    assert "chmod 0600" in message


def test_key_with_an_access_control_list_is_refused(key_file: Path) -> None:
    """A key that an access control list lets another user read is refused."""
    write(key_file)
    let_read(key_file, 20001)
    assert "chmod 0600" in refusal(key_file)


def test_symbolic_link_to_the_key_is_followed(key_file: Path) -> None:
    """The file that the link leads to must be private too."""
    elsewhere = key_file.with_name("elsewhere")
    write(elsewhere)
    key_file.symlink_to(elsewhere)
    assert load_key(key_file, may_create=False) == Key(RAW, key_file)
    elsewhere.chmod(0o644)
    assert "0644" in refusal(key_file)
    elsewhere.unlink()
    assert "no key" in refusal(key_file)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 1 << 20])
def test_key_of_a_wrong_size_is_refused(key_file: Path, size: int) -> None:
    """The message shows nothing of the key."""
    write(key_file, b"K" * size)
    message = refusal(key_file, may_create=True)
    assert str(key_file) in message
    assert ("more than 32" if size > KEY_SIZE else f"{size} bytes") in message
    assert "exactly 32" in message
    assert "KK" not in message
    assert key_file.stat().st_size == size


def test_pipe_in_place_of_the_key_is_refused(key_file: Path) -> None:
    """A pipe is refused at once, and is not read."""
    os.mkfifo(key_file, 0o600)
    assert "not a regular file" in refusal(key_file)


def test_folder_in_place_of_the_key_is_refused(key_file: Path) -> None:
    """A folder with the key's name is refused."""
    key_file.mkdir(0o700)
    assert str(key_file) in refusal(key_file)


def test_message_says_why_a_key_cannot_be_created(tmp_path: Path) -> None:
    """A key that cannot be created is refused for this reason, and not because of a missing database."""
    key_file = tmp_path / "missing" / "key"
    message = refusal(key_file, may_create=True)
    assert str(tmp_path / "missing") in message
    assert "there is a database" not in message


def test_file_in_place_of_the_keys_folder_is_refused(tmp_path: Path) -> None:
    """It is refused with or without a database."""
    (tmp_path / "file").touch()
    for may_create in (True, False):
        message = refusal(tmp_path / "file" / "key", may_create=may_create)
        assert str(tmp_path / "file" / "key") in message
        assert "Not a directory" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_key_of_another_user_is_refused(key_file: Path) -> None:
    """A key that belongs to another user is refused."""
    write(key_file)
    os.chown(key_file, 20001, 20001)
    message = refusal(key_file)
    assert str(key_file) in message
    assert "belongs to UID 20001" in message
    assert "chown" in message


def test_full_disk_leaves_no_incomplete_key(full_disk: Path) -> None:
    """If a key cannot be written completely, there is no key file."""
    message = refusal(full_disk / "key", may_create=True)
    assert "No space left on device" in message
    assert not (full_disk / "key").exists()


def test_credential_is_the_key(credential: Path, key_file: Path) -> None:
    """A systemd credential is the key; a key file is neither needed nor created."""
    write(credential, mode=0o440)
    assert load_key(key_file, may_create=True) == Key(RAW, credential)
    assert not key_file.exists()


def test_credential_precedes_the_key_file(credential: Path, key_file: Path) -> None:
    """A systemd credential is used even if there is a key file."""
    write(credential)
    write(key_file, bytes(32))
    assert load_key(key_file, may_create=False).raw == RAW


def test_key_file_is_used_beside_other_credentials(credential: Path, key_file: Path) -> None:
    """A service with other credentials has its key in the file."""
    write(credential.with_name("another"))
    write(key_file)
    assert load_key(key_file, may_create=False) == Key(RAW, key_file)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_credential_of_a_wrong_size_is_refused(credential: Path, key_file: Path, size: int) -> None:
    """The key file does not replace a wrong credential."""
    write(credential, bytes(size))
    write(key_file)
    assert str(credential) in refusal(key_file)


def test_repr_of_a_key_hides_it() -> None:
    """The text of a key has its source and nothing of the key."""
    key = Key(b"K" * 32, Path("/etc/pykcm/key"))
    assert repr(key) == str(key) == "<Key from /etc/pykcm/key>"


def test_unreadable_credentials_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the credential may exist but cannot be looked up, no other key is used."""
    credentials = tmp_path / ("x" * 300)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with pytest.raises(StoreUnusableError, match="File name too long"):
        load_key(tmp_path / "key", may_create=True)
    assert not (tmp_path / "key").exists()
