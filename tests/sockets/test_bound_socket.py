"""The daemon's own socket: what it replaces, what it leaves alone, and what it leaves behind."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from pykcm.sockets.bound_socket import BoundSocket
from pykcm.sockets.passed import ListenError
from tests.processes import in_child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket belongs; nothing is there yet."""
    return tmp_path / "kcm.sock"


@pytest.fixture
def bound(path: Path) -> Iterator[BoundSocket]:
    """The socket."""
    bound = BoundSocket(path)
    yield bound
    bound.close()


def is_served(path: Path) -> bool:
    """Whether somebody listens there."""
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
def test_for_everyone(path: Path, umask: int) -> None:
    """The socket has mode 0666 whatever the umask, which is as it was afterwards; and it listens."""
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


def test_removed_at_the_end(path: Path) -> None:
    """The socket is gone when it is closed, and nothing else is left in its folder."""
    bound = BoundSocket(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    bound.close()
    assert list(path.parent.iterdir()) == []


def test_a_stale_one_is_replaced(path: Path) -> None:
    """A socket that a killed server left behind is replaced."""
    in_child(lambda: BoundSocket(path))
    assert path.exists()
    assert not is_served(path)
    bound = BoundSocket(path)
    assert is_served(path)
    bound.close()
    assert not path.exists()


def test_a_live_one_is_left_alone(path: Path, bound: BoundSocket) -> None:
    """A socket that another server listens on is refused and goes on to be served."""
    message = refusal(path)
    assert str(path) in message
    assert f"process {os.getpid()} (" in message
    assert f"of UID {os.getuid()} listens there" in message
    assert is_served(path)
    assert bound.socket.fileno() >= 0


def test_a_busy_one_is_left_alone(path: Path) -> None:
    """So is one whose server is too busy to take connections: it is not waited for."""
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


def test_one_after_the_other(path: Path) -> None:
    """Two that start at once do so in turn: the second sees the first one's socket, and that it is served."""
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


def test_a_lock_that_is_never_let_go_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read the folder may lock it: that keeps nobody from starting."""
    monkeypatch.setattr("pykcm.sockets.bound_socket._PATIENCE", 0.05)
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    bound = BoundSocket(path)
    assert is_served(path)
    bound.close()
    os.close(folder)


def test_a_file_is_left_alone(path: Path) -> None:
    """What is no socket is refused and not touched."""
    path.write_text("precious")
    assert str(path) in refusal(path)
    assert path.read_text() == "precious"


def test_a_folder_is_left_alone(path: Path) -> None:
    """A folder is refused as well."""
    path.mkdir()
    assert str(path) in refusal(path)
    assert path.is_dir()


def test_a_link_is_left_alone(path: Path) -> None:
    """A symbolic link is refused and not followed, wherever it leads."""
    target = path.with_name("target")
    for make in (target.touch, target.unlink):
        make()
        path.symlink_to(target)
        assert str(path) in refusal(path)
        assert path.is_symlink()
        path.unlink()


def test_another_kind_of_socket(path: Path) -> None:
    """A datagram socket, such as a log's, is refused and goes on to work."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert str(path) in refusal(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", str(path))
        assert other.recv(1) == b"x"


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is missing is no reason to make one: the message names the path."""
    path = tmp_path / "missing" / "kcm.sock"
    message = refusal(path)
    assert str(path) in message
    assert "No such file or directory" in message


def test_removed_by_somebody_else(path: Path) -> None:
    """A socket that is gone already is no error at the end."""
    bound = BoundSocket(path)
    path.unlink()
    bound.close()


def test_anothers_is_not_removed(path: Path) -> None:
    """What has taken the socket's place meanwhile is not removed at the end."""
    bound = BoundSocket(path)
    aside = path.with_name("aside")
    path.rename(aside)
    second = BoundSocket(path)
    bound.close()
    assert is_served(path)
    second.close()


def test_longest_path(tmp_path: Path) -> None:
    """A path of the kernel's 107 bytes can be listened on; a longer one is refused."""
    path = tmp_path / ("s" * (107 - len(bytes(tmp_path)) - 1))
    bound = BoundSocket(path)
    assert is_served(path)
    bound.close()
    longer = path.with_name(path.name + "s")
    assert str(longer) in refusal(longer)


def test_no_descriptor_is_left_open(path: Path) -> None:
    """A refused start leaves no descriptor behind."""
    path.write_text("precious")
    before = open_descriptors()
    for _ in range(5):
        refusal(path)
    assert open_descriptors() == before
