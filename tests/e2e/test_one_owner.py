"""Only one daemon uses a state folder or a socket, and a second one is told which process does."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.logs import User
from tests.builders import ALICE

from .daemon import LIMIT, Pykcmd

AT_ONCE = 5


def second_to(first: Pykcmd, name: str) -> Pykcmd:
    """Another daemon with its own files, in a folder below the first one's."""
    folder = first.folder / name
    folder.mkdir()
    return Pykcmd(folder)


def holder(daemon: Pykcmd) -> str:
    assert daemon.process is not None
    comm = Path(f"/proc/{daemon.process.pid}/comm").read_text().strip()
    return f"process {daemon.process.pid} ({comm})"


def refusal(daemon: Pykcmd) -> str:
    """The message of a refused start; another daemon may answer on the socket."""
    assert daemon.launch().wait(LIMIT) == 1, daemon.log
    return daemon.log


@pytest.fixture
def second(pykcmd: Pykcmd) -> Iterator[Pykcmd]:
    """A daemon that is not yet started, next to a running one."""
    daemon = second_to(pykcmd, "second")
    yield daemon
    daemon.end()


def test_used_state_folder_is_refused(pykcmd: Pykcmd, second: Pykcmd) -> None:
    """The message has the PID and command of the running daemon."""
    second.state_dir = pykcmd.state_dir
    message = refusal(second)
    assert f"{pykcmd.state_dir}: {holder(pykcmd)} has this state folder; stop it first" in message
    assert not second.socket_path.exists()
    assert pykcmd.answers()


def test_used_socket_is_refused(pykcmd: Pykcmd, second: Pykcmd) -> None:
    """The message has the PID, command and UID of the process that listens."""
    second.socket_path = pykcmd.socket_path
    inode = pykcmd.socket_path.stat().st_ino
    message = refusal(second)
    assert f"{pykcmd.socket_path}: {holder(pykcmd)} of {User(os.geteuid())} listens there" in message
    assert "stop it first, or choose another path" in message
    assert not second.state_dir.exists()
    assert pykcmd.socket_path.stat().st_ino == inode
    assert pykcmd.answers()


@pytest.mark.parametrize("shared", ["state_dir", "socket_path"])
def test_killed_daemon_blocks_nobody(pykcmd: Pykcmd, second: Pykcmd, shared: str) -> None:
    """A new daemon starts, and its PID is the one that others are told."""
    setattr(second, shared, getattr(pykcmd, shared))
    pykcmd.kill()
    second.start()
    third = second_to(pykcmd, "third")
    setattr(third, shared, getattr(pykcmd, shared))
    assert holder(second) in refusal(third)
    assert second.stop() == 0


@pytest.fixture
def pid_namespaces() -> None:
    """For tests that start a daemon that cannot see other processes."""
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("no PID namespace can be made here")


@pytest.mark.usefixtures("pid_namespaces")
@pytest.mark.parametrize("shared", ["state_dir", "socket_path"])
def test_owner_in_other_pid_namespace_is_described(pykcmd: Pykcmd, second: Pykcmd, shared: str) -> None:
    """In a container, the message says as much as can be known."""
    setattr(second, shared, getattr(pykcmd, shared))
    second.command = ("unshare", "--pid", "--fork", "--mount-proc", *second.command)
    message = refusal(second)
    assert f"{getattr(pykcmd, shared)}: " in message
    assert "out of sight (in a container?)" in message
    assert pykcmd.process is not None
    if shared == "state_dir":
        assert f"process {pykcmd.process.pid} there" in message
    assert pykcmd.answers()


def share_all(daemon: Pykcmd, stale: Pykcmd) -> None:
    daemon.state_dir, daemon.socket_path = stale.state_dir, stale.socket_path


def share_socket(daemon: Pykcmd, stale: Pykcmd) -> None:
    daemon.socket_path = stale.socket_path


def share_state(daemon: Pykcmd, stale: Pykcmd) -> None:
    daemon.state_dir = stale.state_dir


@pytest.mark.parametrize("share", [share_all, share_socket, share_state])
def test_one_of_several_concurrent_starts_serves(
    stopped_pykcmd: Pykcmd, share: Callable[[Pykcmd, Pykcmd], None]
) -> None:
    """One daemon replaces the files of a killed one, and the others are refused."""
    stopped_pykcmd.start()
    stopped_pykcmd.kill()
    with contextlib.ExitStack() as at_end:
        daemons = []
        for number in range(AT_ONCE):
            daemon = second_to(stopped_pykcmd, f"daemon-{number}")
            share(daemon, stopped_pykcmd)
            at_end.callback(daemon.end)
            daemons.append(daemon)
        running = [daemon.launch() for daemon in daemons]
        refused = 0
        while refused < AT_ONCE - 1:
            ended = [process for process in running if process.poll() is not None]
            assert all(process.returncode == 1 for process in ended)
            refused = len(ended)
            if refused < AT_ONCE - 1:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    next(process for process in running if process.poll() is None).wait(0.05)
        (one,) = (daemon for daemon in daemons if daemon.running)
        for _ in range(int(LIMIT / 0.05)):
            if one.answers():
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[daemons.index(one)].wait(0.05)
        with KcmClient(one.socket_path) as kcm:
            kcm.initialize(b"0", ALICE)
        for daemon in daemons:
            if daemon is not one:
                assert "process " in daemon.log
                assert "stop it first" in daemon.log
        assert one.stop() == 0
