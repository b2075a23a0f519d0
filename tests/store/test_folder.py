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


def test_made_private(tmp_path: Path) -> None:
    """A missing folder is made, with those above it, and only its owner has access."""
    path = tmp_path / "var" / "lib" / "pykcm"
    before = os.umask(0)
    try:
        folder = StateFolder(path)
    finally:
        os.umask(before)
    assert folder.path == path
    assert path.stat().st_mode & 0o7777 == 0o700
    folder.close()


def test_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder that was made is durable in the one above it; for one that was there nothing is synced."""
    synced: list[Path] = []
    monkeypatch.setattr("pykcm.store.folder.sync_folder", synced.append)
    path = tmp_path / "lib" / "pykcm"
    StateFolder(path).close()
    assert sorted(synced) == [tmp_path, tmp_path / "lib"]
    synced.clear()
    StateFolder(path).close()
    assert synced == []


def test_taken_as_it_is(tmp_path: Path) -> None:
    """A private folder is taken as it is, with what is in it."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    (path / "pykcm.db").write_bytes(b"x")
    StateFolder(path).close()
    StateFolder(path).close()
    assert (path / "pykcm.db").read_bytes() == b"x"


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770, 0o1777])
def test_modes_that_are_not_private(tmp_path: Path, mode: int) -> None:
    """A folder that others have any access to is refused as it is, with its mode and the way out."""
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(mode)
    message = refusal(path)
    assert str(path) in message
    assert f"{mode:04o}" in message
    assert "chmod 0700" in message
    assert path.stat().st_mode & 0o7777 == mode
    assert list(path.iterdir()) == []


def test_someone_else_on_a_list(tmp_path: Path) -> None:
    """A folder that an access control list lets another user read is refused like any other open one."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    let_read(path, 20001)
    assert "chmod 0700" in refusal(path)
    assert list(path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_someone_elses_folder(tmp_path: Path) -> None:
    """A folder of another user is refused: its owner would have the key and the database."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    os.chown(path, 1000, 1000)
    assert "UID 1000" in refusal(path)
    assert list(path.iterdir()) == []


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second daemon is refused while the first has the folder, and is told which process that is."""
    path = tmp_path / "state"
    folder = StateFolder(path)
    program = "import sys; from pathlib import Path; from pykcm.store.folder import StateFolder; "
    second = subprocess.run(
        [sys.executable, "-c", program + "StateFolder(Path(sys.argv[1]))", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
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


def test_let_go_of(tmp_path: Path) -> None:
    """A folder that was let go of is the next one's, and so is that of a process that was killed."""
    path = tmp_path / "state"
    StateFolder(path).close()
    in_child(lambda: StateFolder(path))
    folder = StateFolder(path)
    assert f"process {os.getpid()} (" in refusal(path)
    folder.close()


def test_a_holder_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not tell who it is, the number is told that the holder has written."""
    path = tmp_path / "state"
    folder = StateFolder(path)
    monkeypatch.setattr("pykcm.store.folder._pid_of_holder", lambda _: None)
    assert f"out of sight (in a container?), process {os.getpid()} there, has this state folder" in refusal(
        path
    )
    (path / "lock").write_text("\x1b[2J\n")
    assert "another pykcmd (unknown which) has this state folder" in refusal(path)
    folder.close()


def test_a_holder_before(tmp_path: Path) -> None:
    """Nothing is left in the lock of a holder before, not even where its number was longer."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    (path / "lock").write_text("99999999999999999999\n")
    folder = StateFolder(path)
    assert f"process {os.getpid()} (" in refusal(path)
    folder.close()


def test_a_holder_that_does_not_say(tmp_path: Path) -> None:
    """A lock that is held, but does not say by whom, is a refusal all the same."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refusal(path)
        assert f"process {os.getpid()} (" in message
        assert "choose another state_dir" in message


def test_a_file_in_its_place(tmp_path: Path) -> None:
    """A file where the folder belongs is refused, and so is one above it."""
    path = tmp_path / "state"
    path.write_bytes(b"")
    assert str(path) in refusal(path)
    assert str(path) in refusal(path / "below")


def test_a_link_in_the_locks_place(tmp_path: Path) -> None:
    """A symbolic link where the lock belongs is not followed."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (path / "lock").symlink_to(precious)
    assert str(path / "lock") in refusal(path)
    assert precious.read_text() == "precious"


def test_a_full_disk(full_disk: Path) -> None:
    """On a disk without room for the lock the folder is had all the same, or refused in plain words."""
    try:
        StateFolder(full_disk).close()
    except StoreUnusableError as error:
        assert str(full_disk) in str(error)  # noqa: PT017 - either is right
