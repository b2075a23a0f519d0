"""The socket that the daemon binds itself: files that it replaces or leaves alone, and its removal."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from pykcm.logs import User
from pykcm.sockets.bound_socket import BoundSocket
from pykcm.sockets.passed import ListenError
from tests.processes import in_child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the socket, at which no file exists."""
    return tmp_path / "kcm.sock"


@pytest.fixture
def bound(path: Path) -> Iterator[BoundSocket]:
    """A listening socket at the path."""
    bound = BoundSocket(path)
    yield bound
    bound.close()


def is_served(path: Path) -> bool:
    """Whether a server listens there."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def refusal(path: Path) -> str:
    with pytest.raises(ListenError) as caught:
        BoundSocket(path)
    return str(caught.value)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("umask", [0o077, 0o777, 0])
def test_every_user_may_connect(path: Path, umask: int) -> None:
    """The socket listens and has mode 0666, whatever the umask, which stays as it was."""
    before = os.umask(umask)
    try:
        bound = BoundSocket(path)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert is_served(path)
    bound.close()


def test_closed_socket_is_removed(path: Path) -> None:
    """The socket is removed when it is closed, and no other file is left in its folder."""
    bound = BoundSocket(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    bound.close()
    assert list(path.parent.iterdir()) == []


def test_stale_socket_is_replaced(path: Path) -> None:
    """A socket that a killed server left behind is replaced."""
    in_child(lambda: BoundSocket(path))
    assert path.exists()
    assert not is_served(path)
    bound = BoundSocket(path)
    assert is_served(path)
    bound.close()
    assert not path.exists()


def test_socket_of_a_running_server_is_left_alone(path: Path, bound: BoundSocket) -> None:
    """If another server listens on the socket, the start is refused, and the other server goes on."""
    message = refusal(path)
    assert str(path) in message
    assert f"process {os.getpid()} (" in message
    assert f"of {User(os.getuid())} listens there" in message
    assert is_served(path)
    assert bound.socket.fileno() >= 0


def test_socket_of_a_busy_server_is_left_alone(path: Path) -> None:
    """The same holds for a server that is too busy to accept; the start does not wait for it."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(path))
        inode = path.stat().st_ino
        assert "another server" in refusal(path)
        assert path.stat().st_ino == inode
        for client in waiting:
            client.close()


def test_servers_that_start_together_take_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two servers that start together, the second one sees that the first one listens."""
    # Neither starts without the lock, however slow this machine is. They look for it each 0.2 s.
    monkeypatch.setattr("pykcm.sockets.bound_socket._PATIENCE", 20.0)
    in_child(lambda: BoundSocket(path))
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    stale = path.stat().st_ino
    with ThreadPoolExecutor() as others:
        waiting = [others.submit(BoundSocket, path) for _ in range(2)]
        done, _ = wait(waiting, timeout=0.1)
        assert not done
        assert path.stat().st_ino == stale
        os.close(folder)
        outcomes = [future.exception() for future in waiting]
    assert sorted(map(type, outcomes), key=str) == [type(None), ListenError]
    assert is_served(path)
    for future, outcome in zip(waiting, outcomes, strict=True):
        if outcome is None:
            future.result().close()


def test_held_lock_does_not_prevent_a_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on the folder that a user never releases delays a start for a moment only."""
    monkeypatch.setattr("pykcm.sockets.bound_socket._PATIENCE", 0.05)
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    bound = BoundSocket(path)
    assert is_served(path)
    bound.close()
    os.close(folder)


def test_file_is_left_alone(path: Path) -> None:
    """A file that is no socket is refused and not touched."""
    path.write_text("precious")
    assert str(path) in refusal(path)
    assert path.read_text() == "precious"


def test_folder_is_left_alone(path: Path) -> None:
    """A folder is refused and not touched."""
    path.mkdir()
    assert str(path) in refusal(path)
    assert path.is_dir()


def test_symbolic_link_is_left_alone(path: Path) -> None:
    """A symbolic link is refused and not followed, whether or not its target exists."""
    target = path.with_name("target")
    for make in (target.touch, target.unlink):
        make()
        path.symlink_to(target)
        assert str(path) in refusal(path)
        assert path.is_symlink()
        path.unlink()


def test_datagram_socket_is_left_alone(path: Path) -> None:
    """A datagram socket, such as that of a log, is refused and still works."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert str(path) in refusal(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", str(path))
        assert other.recv(1) == b"x"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A missing folder is not created; the message names the path."""
    path = tmp_path / "missing" / "kcm.sock"
    message = refusal(path)
    assert str(path) in message
    assert "No such file or directory" in message


def test_socket_that_was_removed_is_no_error(path: Path) -> None:
    """Closing a socket that another process has removed is no error."""
    bound = BoundSocket(path)
    path.unlink()
    bound.close()


def test_socket_of_another_server_is_not_removed(path: Path) -> None:
    """A socket that has taken the path meanwhile is not removed at the end."""
    bound = BoundSocket(path)
    aside = path.with_name("aside")
    path.rename(aside)
    second = BoundSocket(path)
    bound.close()
    assert is_served(path)
    second.close()


def test_path_may_have_107_bytes(tmp_path: Path) -> None:
    """A path may have 107 bytes, the kernel's limit; a longer one is refused."""
    path = tmp_path / ("s" * (107 - len(bytes(tmp_path)) - 1))
    bound = BoundSocket(path)
    assert is_served(path)
    bound.close()
    longer = path.with_name(path.name + "s")
    assert str(longer) in refusal(longer)


def test_refused_start_leaves_no_descriptor_open(path: Path) -> None:
    """A refused start closes its descriptors."""
    path.write_text("precious")
    before = open_descriptors()
    for _ in range(5):
        refusal(path)
    assert open_descriptors() == before
