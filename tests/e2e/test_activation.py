"""Started as systemd starts it: with a listening socket handed over, and someone to report to."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from pykcm.client import KcmClient

from .activation import FIRST_FD, Notifications, launch_with, listening
from .clients import Listed, MitClient
from .conftest import USER
from .daemon import Pykcmd
from .kdc import REALM
from .raw import RawConnection, request

NOOP = 0
TGT = f"krbtgt/{REALM}"
ALICES = Listed(f"KCM:{USER}", f"alice@{REALM}", [TGT])


@pytest.fixture
def listener(stopped_pykcmd: Pykcmd) -> Iterator[socket.socket]:
    """The socket that systemd keeps open whether or not the daemon runs."""
    with listening(stopped_pykcmd.socket_path) as sock:
        yield sock


@pytest.fixture
def notifications(folder: Path) -> Iterator[Notifications]:
    """What the daemon tells systemd."""
    notifications = Notifications(folder / "notify")
    yield notifications
    notifications.close()


def test_served_through_the_socket_handed_over(
    stopped_pykcmd: Pykcmd, listener: socket.socket, mit: MitClient
) -> None:
    """The daemon serves the socket handed over, leaves it where it is when it ends, and another goes on."""
    inode = stopped_pykcmd.socket_path.stat().st_ino
    launch_with(stopped_pykcmd, [listener])
    mit.kinit("alice")
    assert stopped_pykcmd.stop() == 0
    assert stopped_pykcmd.socket_path.stat().st_ino == inode
    launch_with(stopped_pykcmd, [listener])
    assert mit.klist() == ALICES
    assert stopped_pykcmd.stop() == 0


def test_two_sockets(stopped_pykcmd: Pykcmd, listener: socket.socket, mit: MitClient) -> None:
    """All sockets handed over are served, with the same ccaches behind them."""
    second_path = stopped_pykcmd.folder / "second.sock"
    with listening(second_path) as second:
        launch_with(stopped_pykcmd, [listener, second])
        mit.kinit("alice")
        with KcmClient(second_path) as kcm:
            assert kcm.get_principal(b"%d" % USER).components == (b"alice",)
        assert stopped_pykcmd.stop() == 0


def test_nobody_hears_any_more(
    stopped_pykcmd: Pykcmd, listener: socket.socket, notifications: Notifications
) -> None:
    """A NOTIFY_SOCKET that is gone is a warning, at the start and at the end, and no reason to fail."""
    notifications.path.unlink()
    launch_with(stopped_pykcmd, [listener], notifications)
    assert stopped_pykcmd.answers()
    assert stopped_pykcmd.stop() == 0
    assert "NOTIFY_SOCKET" in stopped_pykcmd.log


def test_what_systemd_is_told(
    stopped_pykcmd: Pykcmd, listener: socket.socket, notifications: Notifications
) -> None:
    """READY with a STATUS once requests are answered, STOPPING at the end."""
    launch_with(stopped_pykcmd, [listener], notifications)
    ready = notifications.next()
    assert ready["READY"] == "1"
    assert ready["STATUS"]
    assert stopped_pykcmd.answers()
    assert stopped_pykcmd.stop() == 0
    assert notifications.next()["STOPPING"] == "1"


def test_a_client_that_came_first(stopped_pykcmd: Pykcmd, listener: socket.socket) -> None:
    """A request sent before the daemon runs is what starts it in life: it is answered."""
    with RawConnection(stopped_pykcmd.socket_path, os.geteuid()) as early:
        early.send(request(NOOP))
        launch_with(stopped_pykcmd, [listener])
        assert early.reply() == (0, b"")
    assert stopped_pykcmd.stop() == 0


def test_the_sockets_of_another_process(stopped_pykcmd: Pykcmd) -> None:
    """LISTEN_FDS with another process's LISTEN_PID is not for the daemon: it binds its own socket."""
    stopped_pykcmd.start(environment={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert stopped_pykcmd.stop() == 0
    assert not stopped_pykcmd.socket_path.exists()


def _internet_socket(folder: Path) -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.listen()
    return sock


def _datagram_socket(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(folder / "datagrams"))
    return sock


def _sequenced_socket(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(str(folder / "packets"))
    sock.listen()
    return sock


def _socket_that_does_not_listen(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(folder / "silent"))
    return sock


def _connected_socket(folder: Path) -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


def _file(folder: Path) -> BinaryIO:
    return (folder / "pykcm.toml").open("rb")


@pytest.mark.parametrize(
    "make",
    [
        _internet_socket,
        _datagram_socket,
        _sequenced_socket,
        _socket_that_does_not_listen,
        _connected_socket,
        _file,
    ],
)
def test_a_wrong_kind_of_socket(
    stopped_pykcmd: Pykcmd, listener: socket.socket, make: Callable[[Path], socket.socket | BinaryIO]
) -> None:
    """A descriptor that is not a listening Unix stream socket is refused by number, wherever it stands."""
    with make(stopped_pykcmd.folder) as wrong:
        for sockets in ([wrong], [listener, wrong]):
            said = len(stopped_pykcmd.log)
            launch_with(stopped_pykcmd, sockets)
            assert stopped_pykcmd.wait() > 0
            message = stopped_pykcmd.log[said:]
            assert f"descriptor {FIRST_FD + len(sockets) - 1} from LISTEN_FDS" in message
            assert "not a listening Unix stream socket" in message
    assert not stopped_pykcmd.state_dir.exists()


def test_idle(stopped_pykcmd: Pykcmd, listener: socket.socket, mit: MitClient) -> None:
    """Idle for responder_idle_timeout the daemon ends; the next client is served by another."""
    stopped_pykcmd.configure('responder_idle_timeout = "1s"\n')
    launch_with(stopped_pykcmd, [listener])
    mit.kinit("alice")
    assert stopped_pykcmd.wait() == 0
    with RawConnection(stopped_pykcmd.socket_path, USER) as waiting:
        waiting.send(request(NOOP))
        launch_with(stopped_pykcmd, [listener])
        assert waiting.reply() == (0, b"")
    assert mit.klist() == ALICES
    assert stopped_pykcmd.wait() == 0


def _runs_on(daemon: Pykcmd, seconds: float) -> bool:
    """Whether the daemon still runs after so long: that nothing happens can only be seen by looking on."""
    assert daemon.process is not None
    try:
        daemon.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def test_not_idle_with_a_connection(stopped_pykcmd: Pykcmd, listener: socket.socket) -> None:
    """A connection keeps the daemon, however long nothing is asked; the idle time begins when it closes."""
    stopped_pykcmd.configure("responder_idle_timeout = 0.2\n")
    launch_with(stopped_pykcmd, [listener])
    with KcmClient(stopped_pykcmd.socket_path) as kcm:
        kcm.noop()
        assert _runs_on(stopped_pykcmd, 0.8)
        kcm.noop()
    assert stopped_pykcmd.wait() == 0


# When a connection has closed, the daemon does nothing until it may go on and the idle time is over: the
# event loop finds then that the time has ended and somebody has connected, both in one turn.
_BUSY_UNTIL_IDLE = """
import sys, time
from pathlib import Path
if {without_uvloop}:
    sys.modules["uvloop"] = None
from pykcm.daemon import main
from pykcm.server.connections import Connections

discard = Connections.discard

def slow(self, connection):
    discard(self, connection)
    while not Path("go on").exists():
        time.sleep(0.01)
    time.sleep(0.3)

Connections.discard = slow
sys.exit(main())
"""


@pytest.mark.parametrize("without_uvloop", [True, False], ids=["asyncio", "uvloop"])
def test_a_client_that_comes_as_the_idle_time_ends(
    stopped_pykcmd: Pykcmd, listener: socket.socket, *, without_uvloop: bool
) -> None:
    """Who connects in that very moment may ask, however late: this daemon answers, or else the next one."""
    program = _BUSY_UNTIL_IDLE.format(without_uvloop=without_uvloop)
    stopped_pykcmd.command = (sys.executable, "-c", program)
    stopped_pykcmd.configure("responder_idle_timeout = 0.2\n")
    launch_with(stopped_pykcmd, [listener])
    assert stopped_pykcmd.answers()
    with RawConnection(stopped_pykcmd.socket_path, USER) as late:
        (stopped_pykcmd.folder / "go on").touch()
        if not _runs_on(stopped_pykcmd, 1):
            launch_with(stopped_pykcmd, [listener])
        assert late.ask(NOOP) == 0
    assert stopped_pykcmd.wait() == 0


@pytest.mark.parametrize(
    ("store", "timeout", "is_activated"),
    [("memory", "0.2", True), ("sqlcipher", "0", True), ("sqlcipher", "0.2", False)],
    ids=["memory store", "never", "started by hand"],
)
def test_never_idle(
    stopped_pykcmd: Pykcmd, folder: Path, *, store: str, timeout: str, is_activated: bool
) -> None:
    """Idleness ends no memory store, no daemon told never to, and none that nothing would start again."""
    stopped_pykcmd.store = store
    stopped_pykcmd.configure(f"responder_idle_timeout = {timeout}\n")
    if is_activated:
        with listening(stopped_pykcmd.socket_path) as sock:
            launch_with(stopped_pykcmd, [sock])
            assert stopped_pykcmd.answers()
    else:
        stopped_pykcmd.start()
    assert _runs_on(stopped_pykcmd, 0.6)
    assert stopped_pykcmd.stop() == 0
