"""The state folder: private, and one daemon's at a time."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pykcm.store.folder import StateFolder
from pykcm.store.interface import StoreUnusableError
from tests.acls import let_read
from tests.processes import in_child


def refusal(path: Path) -> str:
    with pytest.raises(StoreUnusableError) as caught:
        StateFolder(path)
    return str(caught.value)


def test_missing_folder_is_created_private(tmp_path: Path) -> None:
    """A missing folder is created with its parents, and only its owner has access."""
    path = tmp_path / "var" / "lib" / "pykcm"
    before = os.umask(0)
    try:
        folder = StateFolder(path)
    finally:
        os.umask(before)
    assert folder.path == path
    assert path.stat().st_mode & 0o7777 == 0o700
    folder.close()


def test_created_folders_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each created folder is durable in its parent; for an existing one nothing is synced."""
    synced: list[Path] = []
    monkeypatch.setattr("pykcm.store.folder.sync_folder", synced.append)
    path = tmp_path / "lib" / "pykcm"
    StateFolder(path).close()
    assert sorted(synced) == [tmp_path, tmp_path / "lib"]
    synced.clear()
    StateFolder(path).close()
    assert synced == []


def test_private_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """A private folder and its files are left as they are."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    (path / "pykcm.db").write_bytes(b"x")
    StateFolder(path).close()
    StateFolder(path).close()
    assert (path / "pykcm.db").read_bytes() == b"x"


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770, 0o1777])
def test_folder_that_others_can_access_is_refused(tmp_path: Path, mode: int) -> None:
    """The folder is left as it is, and the message has its mode and says what to do."""
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(mode)
    message = refusal(path)
    assert str(path) in message
    assert f"{mode:04o}" in message
    assert "chmod 0700" in message
    assert path.stat().st_mode & 0o7777 == mode
    assert list(path.iterdir()) == []


def test_folder_with_an_access_control_list_is_refused(tmp_path: Path) -> None:
    """A folder that an access control list lets another user read is refused."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    let_read(path, 20001)
    assert "chmod 0700" in refusal(path)
    assert list(path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner would have the key and the database."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    os.chown(path, 1000, 1000)
    assert "UID 1000" in refusal(path)
    assert list(path.iterdir()) == []


def test_second_daemon_is_refused(tmp_path: Path) -> None:
    """While one daemon has the folder another one is refused, and the message names the first."""
    path = tmp_path / "state"
    folder = StateFolder(path)
    program = "import sys; from pathlib import Path; from pykcm.store.folder import StateFolder; "
    second = subprocess.run(
        [sys.executable, "-c", program + "StateFolder(Path(sys.argv[1]))", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert second.returncode != 0
    last = second.stderr.splitlines()[-1]
    assert "StoreUnusableError" in last
    assert str(path) in last
    assert f"process {os.getpid()} (" in last
    # The refused one has not taken the holder's place in the file.
    assert f"process {os.getpid()} (" in refusal(path)
    folder.close()


def test_closed_folder_can_be_locked_again(tmp_path: Path) -> None:
    """A folder that was closed, or whose process was killed, can be locked again."""
    path = tmp_path / "state"
    StateFolder(path).close()
    in_child(lambda: StateFolder(path))
    folder = StateFolder(path)
    assert f"process {os.getpid()} (" in refusal(path)
    folder.close()


def test_invisible_holder_is_named_by_its_own_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel does not show the holder, the message has the number that the holder has written."""
    path = tmp_path / "state"
    folder = StateFolder(path)
    monkeypatch.setattr("pykcm.store.folder._pid_of_holder", lambda _: None)
    assert f"out of sight (in a container?), process {os.getpid()} there, has this state folder" in refusal(
        path
    )
    (path / "lock").write_text("\x1b[2J\n")
    assert "another pykcmd (unknown which) has this state folder" in refusal(path)
    folder.close()


def test_lock_file_has_only_the_present_holder(tmp_path: Path) -> None:
    """The lock's file has no digits of an earlier holder, even if its number was longer."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    (path / "lock").write_text("99999999999999999999\n")
    folder = StateFolder(path)
    assert f"process {os.getpid()} (" in refusal(path)
    folder.close()


def test_unknown_holder_is_a_refusal_too(tmp_path: Path) -> None:
    """A lock is a refusal also if its file names nobody."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refusal(path)
        assert f"process {os.getpid()} (" in message
        assert "choose another state_dir" in message


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A file in place of the folder or of a parent is refused."""
    path = tmp_path / "state"
    path.write_bytes(b"")
    assert str(path) in refusal(path)
    assert str(path) in refusal(path / "below")


def test_symbolic_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link in place of the lock is refused."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (path / "lock").symlink_to(precious)
    assert str(path / "lock") in refusal(path)
    assert precious.read_text() == "precious"


def test_full_disk_is_a_clear_refusal_or_no_hindrance(full_disk: Path) -> None:
    """On a full disk the folder is locked without a number in the lock, or refused in plain words."""
    try:
        StateFolder(full_disk).close()
    except StoreUnusableError as error:
        assert str(full_disk) in str(error)  # noqa: PT017 - either is right
