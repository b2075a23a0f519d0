"""The daemon under systemd: with listening sockets and notifications."""

import os
import select
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
from .daemon import LIMIT, Pykcmd
from .kdc import REALM
from .raw import RawConnection, request

NOOP = 0
TGT = f"krbtgt/{REALM}"
ALICES = Listed(f"KCM:{USER}", f"alice@{REALM}", [TGT])


@pytest.fixture
def listener(stopped_pykcmd: Pykcmd) -> Iterator[socket.socket]:
    """The socket that systemd keeps open, whether or not the daemon runs."""
    with listening(stopped_pykcmd.socket_path) as sock:
        yield sock


@pytest.fixture
def notifications(folder: Path) -> Iterator[Notifications]:
    """The daemon's messages to systemd."""
    notifications = Notifications(folder / "notify")
    yield notifications
    notifications.close()


def test_socket_of_systemd_is_served(stopped_pykcmd: Pykcmd, listener: socket.socket, mit: MitClient) -> None:
    """The daemon leaves the socket in place when it ends, and the next daemon continues."""
    inode = stopped_pykcmd.socket_path.stat().st_ino
    launch_with(stopped_pykcmd, [listener])
    mit.kinit("alice")
    assert stopped_pykcmd.stop() == 0
    assert stopped_pykcmd.socket_path.stat().st_ino == inode
    launch_with(stopped_pykcmd, [listener])
    assert mit.klist() == ALICES
    assert stopped_pykcmd.stop() == 0


def test_several_sockets_are_served(stopped_pykcmd: Pykcmd, listener: socket.socket, mit: MitClient) -> None:
    """They give access to the same ccaches."""
    second_path = stopped_pykcmd.folder / "second.sock"
    with listening(second_path) as second:
        launch_with(stopped_pykcmd, [listener, second])
        mit.kinit("alice")
        with KcmClient(second_path) as kcm:
            assert kcm.get_principal(b"%d" % USER).components == (b"alice",)
        assert stopped_pykcmd.stop() == 0


def test_missing_notify_socket_is_a_warning(
    stopped_pykcmd: Pykcmd, listener: socket.socket, notifications: Notifications
) -> None:
    """At the start and at the end; it is no reason to fail."""
    notifications.path.unlink()
    launch_with(stopped_pykcmd, [listener], notifications)
    assert stopped_pykcmd.answers()
    assert stopped_pykcmd.stop() == 0
    assert "NOTIFY_SOCKET" in stopped_pykcmd.log


def test_notifications_of_systemd(
    stopped_pykcmd: Pykcmd, listener: socket.socket, notifications: Notifications
) -> None:
    """READY with a STATUS when requests are answered, STOPPING at the end."""
    launch_with(stopped_pykcmd, [listener], notifications)
    ready = notifications.next()
    assert ready["READY"] == "1"
    assert ready["STATUS"]
    assert stopped_pykcmd.answers()
    assert stopped_pykcmd.stop() == 0
    assert notifications.next()["STOPPING"] == "1"


def test_request_before_start_is_answered(stopped_pykcmd: Pykcmd, listener: socket.socket) -> None:
    """A request that arrived before the daemon started is answered."""
    with RawConnection(stopped_pykcmd.socket_path, os.geteuid()) as early:
        early.send(request(NOOP))
        launch_with(stopped_pykcmd, [listener])
        assert early.reply() == (0, b"")
    assert stopped_pykcmd.stop() == 0


def test_sockets_of_other_process_are_ignored(stopped_pykcmd: Pykcmd) -> None:
    """LISTEN_FDS with another LISTEN_PID is not for the daemon, which binds its own socket."""
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
def test_wrong_kind_of_socket_is_refused(
    stopped_pykcmd: Pykcmd, listener: socket.socket, make: Callable[[Path], socket.socket | BinaryIO]
) -> None:
    """A descriptor that is not a listening Unix stream socket is named by its number."""
    with make(stopped_pykcmd.folder) as wrong:
        for sockets in ([wrong], [listener, wrong]):
            said = len(stopped_pykcmd.log)
            launch_with(stopped_pykcmd, sockets)
            assert stopped_pykcmd.wait() > 0
            message = stopped_pykcmd.log[said:]
            assert f"descriptor {FIRST_FD + len(sockets) - 1} from LISTEN_FDS" in message
            assert "not a listening Unix stream socket" in message
    assert not stopped_pykcmd.state_dir.exists()


def test_idle_daemon_ends(stopped_pykcmd: Pykcmd, listener: socket.socket, mit: MitClient) -> None:
    """It ends after responder_idle_timeout, and another one serves the next client."""
    stopped_pykcmd.configure('responder_idle_timeout = "1s"\n')
    # The open connections keep the daemons running meanwhile.
    with RawConnection(stopped_pykcmd.socket_path, USER):
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
    """Whether the daemon still runs after this time, which can only be waited for."""
    assert daemon.process is not None
    try:
        daemon.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def test_open_connection_keeps_the_daemon(stopped_pykcmd: Pykcmd, listener: socket.socket) -> None:
    """The idle time begins when the last connection closes."""
    stopped_pykcmd.configure("responder_idle_timeout = 0.2\n")
    with KcmClient(stopped_pykcmd.socket_path) as kcm:
        launch_with(stopped_pykcmd, [listener])
        kcm.noop()
        assert _runs_on(stopped_pykcmd, 0.8)
        kcm.noop()
    assert stopped_pykcmd.wait() == 0


# When a connection has closed, the daemon is held until the idle time is over. In its next iteration the
# event loop finds both that the time has ended and that a client has connected.
_BUSY_UNTIL_IDLE = """
import sys, time
from pathlib import Path
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


def test_client_at_the_end_of_idle_time_is_served(stopped_pykcmd: Pykcmd, listener: socket.socket) -> None:
    """A client that connects in that moment is answered by this daemon or the next one."""
    stopped_pykcmd.command = (sys.executable, "-c", _BUSY_UNTIL_IDLE)
    stopped_pykcmd.configure("responder_idle_timeout = 0.2\n")
    with RawConnection(stopped_pykcmd.socket_path, USER) as first:
        launch_with(stopped_pykcmd, [listener])
        assert first.ask(NOOP) == 0
    with RawConnection(stopped_pykcmd.socket_path, USER) as late:
        late.send(request(NOOP))
        (stopped_pykcmd.folder / "go on").touch()
        if not _is_answered_by(stopped_pykcmd, late):
            launch_with(stopped_pykcmd, [listener])
        assert late.reply() == (0, b"")
    assert stopped_pykcmd.wait() == 0


def _is_answered_by(daemon: Pykcmd, connection: RawConnection) -> bool:
    """Wait until the daemon answers or ends; returns whether it has answered."""
    process = os.pidfd_open(daemon.pid)
    try:
        readable, _, _ = select.select([connection.fileno(), process], [], [], LIMIT)
    finally:
        os.close(process)
    assert readable
    return connection.fileno() in readable


@pytest.mark.parametrize(
    ("store", "timeout", "is_activated"),
    [("memory", "0.2", True), ("sqlcipher", "0", True), ("sqlcipher", "0.2", False)],
    ids=["memory store", "never", "started by hand"],
)
def test_some_daemons_never_end_idle(
    stopped_pykcmd: Pykcmd, folder: Path, *, store: str, timeout: str, is_activated: bool
) -> None:
    """The memory store, a timeout of 0, and a daemon that nothing would start again."""
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
