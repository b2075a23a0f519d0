"""SIGTERM: what has been received is answered, what has been answered is kept, and the exit code is 0."""

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
def test_idle_and_busy_clients(pykcmd: Pykcmd, number: signal.Signals) -> None:
    """The daemon ends though clients are connected; they see their connection's end; the socket is gone."""
    assert pykcmd.process is not None
    with RawConnection(pykcmd.socket_path, USER) as idle, RawConnection(pykcmd.socket_path, USER) as half:
        assert idle.ask(NOOP) == 0
        half.send(request(NOOP)[:5])
        pykcmd.process.send_signal(number)
        assert pykcmd.wait() == 0
        assert idle.is_closed()
        assert half.is_closed()
    assert not pykcmd.socket_path.exists()
    sender = f"process {os.getpid()} ({comm()}) of UID {os.geteuid()}"
    assert f"\npykcmd: info: stopping: {number.name} from {sender}\n" in pykcmd.log


def comm() -> str:
    return Path("/proc/self/comm").read_text().strip()


def test_the_terminal_is_named_as_the_kernel(stopped_pykcmd: Pykcmd) -> None:
    """A daemon whose terminal sends Ctrl+C says that the kernel has sent SIGINT, and ends in order."""
    ours, theirs = pty.openpty()
    try:
        # A session of its own, whose terminal this becomes.
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


def test_an_idle_end_says_how_long(stopped_pykcmd: Pykcmd) -> None:
    """A daemon that ends because nobody is connected says so, with the time."""
    stopped_pykcmd.configure("responder_idle_timeout = 0.25\n")
    with listening(stopped_pykcmd.socket_path) as listener:
        launch_with(stopped_pykcmd, [listener])
        assert stopped_pykcmd.wait() == 0
    assert "pykcmd: info: stopping: idle for 0.25 s (responder_idle_timeout)\n" in stopped_pykcmd.log


def test_a_second_signal_does_not_hurry_the_end(pykcmd: Pykcmd) -> None:
    """Signals that come while the daemon ends change nothing: it ends in order."""
    assert pykcmd.process is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        pykcmd.process.send_signal(number)
    assert pykcmd.wait() == 0
    assert pykcmd.log.count("stopping: ") == 1


def test_without_standard_streams(stopped_pykcmd: Pykcmd) -> None:
    """A daemon whose standard streams are closed serves and ends as any other."""
    process = stopped_pykcmd.launch(wrapper=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
    while not stopped_pykcmd.answers():
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"exit code {process.wait(0.01)}")
    # Nothing else has their numbers: what is written to them must not end in the database.
    assert {str(Path(f"/proc/{process.pid}/fd/{fd}").readlink()) for fd in range(3)} == {os.devnull}
    assert stopped_pykcmd.stop() == 0


@pytest.fixture
def connect(folder: Path) -> Iterator[Callable[[], RawConnection]]:
    """Makes connections that are closed at the end."""
    with ExitStack() as at_end:
        yield lambda: at_end.enter_context(RawConnection(folder / "kcm.sock", USER))


def test_what_was_received_is_answered(
    pykcmd: Pykcmd, mit: MitClient, connect: Callable[[], RawConnection]
) -> None:
    """Requests that were there before SIGTERM, several on each connection, are all answered and kept."""
    mit.kinit("alice")
    ticket = _ticket(pykcmd)
    assert pykcmd.process is not None
    connections = [connect() for _ in range(4)]
    for connection in connections:
        assert connection.ask(NOOP) == 0
    before = _servers(pykcmd)
    # Held still, so that requests and signal are there together.
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


def test_under_load(pykcmd: Pykcmd, mit: MitClient) -> None:
    """With clients storing all the time, each STORE that was answered before the end is there after it."""
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
    # One more of each client may have been carried out, and its answer lost with the connection.
    assert len(stored) <= len(answered) + len(clients) + 3


def test_a_client_that_comes_at_the_end(stopped_pykcmd: Pykcmd, connect: Callable[[], RawConnection]) -> None:
    """Under socket activation no request is lost to a stop: it is answered by this daemon or the next."""
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
