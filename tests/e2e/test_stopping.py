"""SIGTERM: received requests are answered, answered changes are kept, and the exit code is 0."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.logs import User

from .activation import launch_with, listening
from .clients import MitClient
from .conftest import USER
from .credentials import for_server, parse_all, server_of
from .daemon import Pykcmd, effective_uid
from .raw import RawConnection, request

NAME = b"%d" % USER
NOOP, STORE = 0, 6


def _ticket(daemon: Pykcmd) -> bytes:
    with effective_uid(USER), KcmClient(daemon.socket_path) as kcm:
        return kcm.get_cred_list(NAME)[-1]


def _servers(daemon: Pykcmd) -> list[str]:
    with effective_uid(USER), KcmClient(daemon.socket_path) as kcm:
        return [server_of(credential) for credential in parse_all(kcm.get_cred_list(NAME))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_daemon_stops_with_connected_clients(pykcmd: Pykcmd, number: signal.Signals) -> None:
    """Connections are closed, and the socket is removed."""
    assert pykcmd.process is not None
    with RawConnection(pykcmd.socket_path, USER) as idle, RawConnection(pykcmd.socket_path, USER) as half:
        assert idle.ask(NOOP) == 0
        half.send(request(NOOP)[:5])
        pykcmd.process.send_signal(number)
        assert pykcmd.wait() == 0
        assert idle.is_closed()
        assert half.is_closed()
    assert not pykcmd.socket_path.exists()
    sender = f"process {os.getpid()} ({comm()}) of {User(os.geteuid())}"
    assert f"\npykcmd: info: stopping: {number.name} from {sender}\n" in pykcmd.log


def comm() -> str:
    return Path("/proc/self/comm").read_text().strip()


def test_ctrl_c_is_logged(stopped_pykcmd: Pykcmd) -> None:
    """The log says that the kernel sent SIGINT for the terminal's Ctrl+C."""
    ours, theirs = pty.openpty()
    try:
        # A new session, which gets this terminal.
        takes = (
            "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY); "
        )
        program = takes + "os.execv(sys.argv[2], sys.argv[2:])"
        process = stopped_pykcmd.launch(
            wrapper=(sys.executable, "-c", program, str(theirs)), pass_fds=[theirs]
        )
        while not stopped_pykcmd.answers():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"exit code {process.wait(0.01)}")
        os.write(ours, b"\x03")
        assert stopped_pykcmd.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert "stopping: SIGINT from the kernel" in stopped_pykcmd.log


def test_idle_stop_is_logged_with_time(stopped_pykcmd: Pykcmd) -> None:
    stopped_pykcmd.configure("responder_idle_timeout = 0.25\n")
    with listening(stopped_pykcmd.socket_path) as listener:
        launch_with(stopped_pykcmd, [listener])
        assert stopped_pykcmd.wait() == 0
    assert "pykcmd: info: stopping: idle for 0.25 s (responder_idle_timeout)\n" in stopped_pykcmd.log


def test_second_signal_changes_nothing(pykcmd: Pykcmd) -> None:
    assert pykcmd.process is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        pykcmd.process.send_signal(number)
    assert pykcmd.wait() == 0
    assert pykcmd.log.count("stopping: ") == 1


def test_daemon_works_without_standard_streams(stopped_pykcmd: Pykcmd) -> None:
    process = stopped_pykcmd.launch(wrapper=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
    while not stopped_pykcmd.answers():
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"exit code {process.wait(0.01)}")
    # No other file may get their descriptors: output must not end up in the database.
    assert {str(Path(f"/proc/{process.pid}/fd/{fd}").readlink()) for fd in range(3)} == {os.devnull}
    assert stopped_pykcmd.stop() == 0


@pytest.fixture
def connect(folder: Path) -> Iterator[Callable[[], RawConnection]]:
    """Makes connections that are closed at the end."""
    with ExitStack() as at_end:
        yield lambda: at_end.enter_context(RawConnection(folder / "kcm.sock", USER))


def test_received_requests_are_answered(
    pykcmd: Pykcmd, mit: MitClient, connect: Callable[[], RawConnection]
) -> None:
    """All requests that arrived before SIGTERM are answered and kept."""
    mit.kinit("alice")
    ticket = _ticket(pykcmd)
    assert pykcmd.process is not None
    connections = [connect() for _ in range(4)]
    for connection in connections:
        assert connection.ask(NOOP) == 0
    before = _servers(pykcmd)
    # The process is stopped, so that it gets the requests and the signal together.
    pykcmd.process.send_signal(signal.SIGSTOP)
    sent = []
    for index, connection in enumerate(connections):
        for number in range(10):
            sent.append(f"service{index}-{number}")
            connection.send(request(STORE, NAME + b"\0" + for_server(sent[-1].encode(), ticket)))
    pykcmd.process.send_signal(signal.SIGTERM)
    pykcmd.process.send_signal(signal.SIGCONT)
    for connection in connections:
        assert [connection.reply() for _ in range(10)] == [(0, b"")] * 10
        assert connection.is_closed()
    assert pykcmd.wait() == 0
    pykcmd.start()
    assert sorted(_servers(pykcmd)) == sorted(before + sent)


def test_stop_under_load_loses_nothing(pykcmd: Pykcmd, mit: MitClient) -> None:
    """Every STORE that was answered before the end is there afterwards."""
    mit.kinit("alice")
    ticket = _ticket(pykcmd)

    def store_until_the_end(connection: KcmClient, label: str) -> list[str]:
        answered: list[str] = []
        with connection:
            try:
                while True:
                    server = f"{label}-{len(answered)}"
                    connection.store(NAME, for_server(server.encode(), ticket))
                    answered.append(server)
            except OSError:
                return answered

    with effective_uid(USER):
        clients = [KcmClient(pykcmd.socket_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(store_until_the_end, client, f"c{n}") for n, client in enumerate(clients)]
        with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
            while len(kcm.get_cred_uuid_list(NAME)) < 50:
                pass
        assert pykcmd.stop() == 0
        answered = [server for client in running for server in client.result()]
    pykcmd.start()
    stored = _servers(pykcmd)
    assert set(answered) <= set(stored)
    # One more request of each client may have been executed, with its answer lost.
    assert len(stored) <= len(answered) + len(clients) + 3


def test_activation_loses_no_request_at_stop(
    stopped_pykcmd: Pykcmd, connect: Callable[[], RawConnection]
) -> None:
    """Either this daemon or the next one answers each request."""
    with listening(stopped_pykcmd.socket_path) as listener:
        process = launch_with(stopped_pykcmd, [listener])
        assert stopped_pykcmd.answers()
        process.send_signal(signal.SIGSTOP)
        late = [connect() for _ in range(5)]
        for connection in late:
            connection.send(request(NOOP))
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert stopped_pykcmd.wait() == 0
        assert "cut off" not in stopped_pykcmd.log
        launch_with(stopped_pykcmd, [listener])
        for connection in late:
            assert connection.reply() == (0, b"")
        assert stopped_pykcmd.answers()
        assert stopped_pykcmd.stop() == 0
