"""Sockets from LISTEN_FDS, and state sent to NOTIFY_SOCKET, without systemd-python."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pykcm.protocol.text import printable
from pykcm.sockets.systemd import Activated, Notifier, activated_sockets

ROOT = Path(__file__).parents[2]

# The first inherited descriptor, as sd_listen_fds(3) has it.
FIRST_FD = 3

REPORT = """
import os, sys
sys.modules["systemd"] = None
os.environ["LISTEN_PID"] = str(os.getpid() if sys.argv[1] == "mine" else os.getpid() + 1)
from pykcm.sockets.passed import ListenError
from pykcm.sockets.systemd import Activated, activated_sockets
try:
    found, control = activated_sockets()
except ListenError as error:
    print("refused:", error)
else:
    assert not [name for name in os.environ if name.startswith("LISTEN_")] or sys.argv[1] != "mine"
    print([(each.fileno(), each.getsockname()) for each in found], [each.fileno() for each in control])
    assert not any(os.get_inheritable(each.fileno()) for each in found + control)
    for each in found:
        accepted, _ = each.accept()
        print(accepted.recv(5))
"""


def activate(sockets: Sequence[socket.socket], pid: str = "mine", names: str | None = None) -> list[str]:
    """The output of a process that is started as systemd starts a service with these sockets."""
    # The shell puts the descriptors where sd_listen_fds(3) expects them. High numbers first, so that none is
    # overwritten before it is moved. Unused ones: this process may have many open files.
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 100) for each in sockets]
    redirections = " ".join(f"{FIRST_FD + number}<&{fd}" for number, fd in enumerate(moved))
    try:
        done = subprocess.run(
            ["bash", "-c", f'exec "$@" {redirections}', "bash", sys.executable, "-c", REPORT, pid],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=ROOT,
            pass_fds=moved,
            env=os.environ
            | {"LISTEN_FDS": str(len(sockets))}
            | ({} if names is None else {"LISTEN_FDNAMES": names}),
        )
    finally:
        for fd in moved:
            os.close(fd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def listening(path: Path) -> socket.socket:
    result = socket.socket(socket.AF_UNIX)
    result.bind(str(path))
    result.listen()
    return result


def test_listening_sockets_are_used_and_not_inherited(tmp_path: Path) -> None:
    """Listening Unix stream sockets are used as they are. No child gets them, or the variables."""
    paths = [tmp_path / "one", tmp_path / "two"]
    with listening(paths[0]) as one, listening(paths[1]) as two:
        clients = []
        for path in paths:
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(path))
            client.send(path.name.encode())
            clients.append(client)
        lines = activate([one, two])
        for client in clients:
            client.close()
    wanted = [(FIRST_FD, str(paths[0])), (FIRST_FD + 1, str(paths[1]))]
    assert lines == [f"{wanted} []", "b'one'", "b'two'"]


def test_socket_named_control_is_for_pykcmctl(tmp_path: Path) -> None:
    """Only the socket that its unit names `control` is the control socket."""
    with (
        listening(tmp_path / "one") as one,
        listening(tmp_path / "two") as two,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(tmp_path / "two"))
        client.send(b"hello")
        lines = activate([one, two], names="control:kcm")
    assert lines == [f"{[(FIRST_FD + 1, str(tmp_path / 'two'))]} {[FIRST_FD]}", "b'hello'"]


def test_descriptors_for_another_process_are_ignored(tmp_path: Path) -> None:
    """A LISTEN_PID that is not this process means no sockets."""
    with listening(tmp_path / "socket") as sock:
        assert activate([sock], "another's") == ["[] []"]


@pytest.mark.parametrize("kind", ["not listening", "datagram", "internet", "file"])
def test_descriptor_that_is_no_listening_unix_stream_is_refused(tmp_path: Path, kind: str) -> None:
    """The message has the descriptor's number."""
    if kind == "internet":
        sock = socket.socket(socket.AF_INET)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
    elif kind == "file":
        sock = socket.socket(socket.AF_UNIX)
        with (tmp_path / "file").open("wb") as file:
            os.dup2(file.fileno(), sock.fileno())
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
        sock.bind(str(tmp_path / "socket"))
    with sock:
        (line,) = activate([sock])
    assert line.startswith("refused: ")
    assert "descriptor 3" in line


def test_wrong_control_socket_does_not_stop_the_daemon(tmp_path: Path) -> None:
    """A control socket that does not listen is closed, and the socket for tickets is used."""
    with listening(tmp_path / "kcm") as kcm, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(str(tmp_path / "control"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "kcm"))
            client.send(b"hello")
            lines = activate([control, kcm], names="control:kcm")
    assert lines == [f"{[(FIRST_FD + 1, str(tmp_path / 'kcm'))]} []", "b'hello'"]


@pytest.mark.parametrize("number", ["1", "99999", "abc", "-1", "0", "", "1 ", "\u0661", "9" * 5000])
def test_impossible_listen_fds_is_refused(number: str) -> None:
    """The message quotes a LISTEN_FDS that gives no sockets."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, "mine"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "LISTEN_FDS": number},
    )
    assert done.stdout.startswith(f"refused: LISTEN_FDS={printable(number)} ")


def test_without_listen_fds_there_are_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LISTEN_FDS, or with the LISTEN_PID of another process, there are no sockets."""
    monkeypatch.delenv("LISTEN_PID", raising=False)
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert activated_sockets() == Activated([], [])
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert activated_sockets() == Activated([], [])


@pytest.mark.parametrize("names", ["control", "control:kcm:kcm", ""])
def test_names_for_another_number_of_descriptors_are_refused(tmp_path: Path, names: str) -> None:
    """The daemon does not guess which descriptor a name is for."""
    with listening(tmp_path / "one") as one, listening(tmp_path / "two") as two:
        (line,) = activate([one, two], names=names)
    assert line.startswith("refused: LISTEN_FDNAMES has ")


def test_without_notify_socket_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that was started by hand sends no notification."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("ready")
    notifier.stopping()


@pytest.fixture(params=["path", "path with any byte", "abstract"])
def notify_socket(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The receiving end of NOTIFY_SOCKET."""
    name = f"pykcm-test-{os.getpid()}"
    addresses = {
        "path": (str(tmp_path / "notify"), os.fsencode(tmp_path / "notify")),
        "path with any byte": (f"{tmp_path}/@notify\udcff", os.fsencode(tmp_path) + b"/@notify\xff"),
        "abstract": (f"@{name}", f"\0{name}".encode()),
    }
    variable, address = addresses[request.param]
    monkeypatch.setenv("NOTIFY_SOCKET", variable)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(address)
        receiving.settimeout(60)
        yield receiving


def test_readiness_and_stopping_are_sent(notify_socket: socket.socket) -> None:
    """READY with a STATUS, then STOPPING, also to an abstract socket."""
    notifier = Notifier()
    notifier.ready("Serving")
    notifier.stopping()
    messages = [notify_socket.recv(1000).decode().splitlines() for _ in range(2)]
    assert messages[0] == ["READY=1", "STATUS=Serving"]
    assert messages[1][0] == "STOPPING=1"


@pytest.mark.parametrize("path", ["/tmp/a\nMAINPID=1", "/tmp/\udcff"])
def test_path_in_the_status_is_one_printable_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A path cannot add a variable to the message, and need not be UTF-8."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(str(tmp_path / "notify"))
        receiving.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        Notifier().ready(f"Serving on {path}")
        assert receiving.recv(1000).decode() == f"READY=1\nSTATUS=Serving on {printable(path)}"


@pytest.mark.parametrize(
    "path", ["nowhere/notify", "/nowhere/notify", "@pykcm-nobody", "vsock:2:1", "/" * 200]
)
def test_notification_that_cannot_be_sent_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """The warning names NOTIFY_SOCKET and the notification; the daemon goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    Notifier().ready("Serving")
    (record,) = caplog.records
    assert f"READY=1 cannot be sent to systemd (NOTIFY_SOCKET={path}): " in record.getMessage()
    assert "None" not in record.getMessage()


def test_full_queue_of_notifications_does_not_block_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If no process reads NOTIFY_SOCKET, the daemon goes on after a while, with a warning."""
    monkeypatch.setattr("pykcm.sockets.systemd._PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for _ in range(10_000):
            Notifier().stopping()
            if caplog.records:
                break
        assert "timed out" in caplog.records[0].getMessage()
