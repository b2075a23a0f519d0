"""What systemd hands over and is told: sockets from LISTEN_FDS, readiness to NOTIFY_SOCKET."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pykcm.server.listener import ListenError
from pykcm.server.systemd import Activated, Notifier, activated_sockets

ROOT = Path(__file__).parents[2]

# The first inherited descriptor, as sd_listen_fds(3) has it.
FIRST_FD = 3

REPORT = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() if sys.argv[1] == "mine" else os.getpid() + 1)
from pykcm.server.listener import ListenError
from pykcm.server.systemd import Activated, activated_sockets
try:
    found, control = activated_sockets()
except ListenError as error:
    print("refused:", error)
else:
    print([(each.fileno(), each.getsockname()) for each in found], [each.fileno() for each in control])
    assert not any(os.get_inheritable(each.fileno()) for each in found + control)
    for each in found:
        accepted, _ = each.accept()
        print(accepted.recv(5))
"""


@pytest.fixture
def has_systemd() -> None:
    """For tests of what only systemd-python can do."""
    pytest.importorskip("systemd.daemon")


def activate(sockets: Sequence[socket.socket], whose: str = "mine", names: str | None = None) -> list[str]:
    """What a process finds that is started as systemd starts a service with these sockets."""
    # The shell puts the descriptors where sd_listen_fds(3) expects them; the highest first, so that none is
    # overwritten before it is moved.
    moved = [os.dup2(each.fileno(), 100 + number) for number, each in enumerate(sockets)]
    redirections = " ".join(f"{FIRST_FD + number}<&{fd}" for number, fd in enumerate(moved))
    try:
        done = subprocess.run(
            ["bash", "-c", f'exec "$@" {redirections}', "bash", sys.executable, "-c", REPORT, whose],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
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


@pytest.mark.usefixtures("has_systemd")
def test_sockets_are_taken_over(tmp_path: Path) -> None:
    """Listening Unix stream sockets are taken over as they are, and no child inherits them."""
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


@pytest.mark.usefixtures("has_systemd")
def test_the_control_socket_by_name(tmp_path: Path) -> None:
    """Of several sockets the one whose unit calls it `control` is for administration, and no other."""
    with (
        listening(tmp_path / "one") as one,
        listening(tmp_path / "two") as two,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(tmp_path / "two"))
        client.send(b"hello")
        lines = activate([one, two], names="control:kcm")
    assert lines == [f"{[(FIRST_FD + 1, str(tmp_path / 'two'))]} {[FIRST_FD]}", "b'hello'"]


@pytest.mark.usefixtures("has_systemd")
def test_other_processes_sockets(tmp_path: Path) -> None:
    """Descriptors that are meant for another process are left alone."""
    with listening(tmp_path / "socket") as sock:
        assert activate([sock], "another's") == ["[] []"]


@pytest.mark.usefixtures("has_systemd")
@pytest.mark.parametrize("kind", ["not listening", "datagram", "internet", "file"])
def test_wrong_descriptors(tmp_path: Path, kind: str) -> None:
    """A descriptor that is no listening Unix stream socket is refused, with its number."""
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


@pytest.mark.usefixtures("has_systemd")
def test_a_wrong_control_socket_is_done_without(tmp_path: Path) -> None:
    """A control socket that does not listen is closed, and the one for tickets is taken over."""
    with listening(tmp_path / "kcm") as kcm, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(str(tmp_path / "control"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "kcm"))
            client.send(b"hello")
            lines = activate([control, kcm], names="control:kcm")
    assert lines == [f"{[(FIRST_FD + 1, str(tmp_path / 'kcm'))]} []", "b'hello'"]


@pytest.mark.usefixtures("has_systemd")
@pytest.mark.parametrize("number", ["1", "99999", "abc", "-1", "0"])
def test_wrong_numbers_of_descriptors(number: str) -> None:
    """A LISTEN_FDS that does not lead to sockets is refused, and the message quotes it."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, "mine"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=ROOT,
        env={**os.environ, "LISTEN_FDS": number},
    )
    assert done.stdout.startswith(f"refused: LISTEN_FDS={number} ")


def test_started_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LISTEN_FDS, or with another process's, there are no sockets, and no library is needed."""
    monkeypatch.setitem(sys.modules, "systemd", None)
    monkeypatch.delenv("LISTEN_PID", raising=False)
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert activated_sockets() == Activated([], [])
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert activated_sockets() == Activated([], [])


def test_activated_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """With LISTEN_FDS, but without systemd-python, the daemon refuses to start: never silence."""
    monkeypatch.setitem(sys.modules, "systemd", None)
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(ListenError) as caught:
        activated_sockets()
    assert "LISTEN_FDS" in str(caught.value)
    assert "systemd-python" in str(caught.value)


def test_to_notify_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it does where somebody waits to be notified."""
    monkeypatch.setitem(sys.modules, "systemd", None)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    with pytest.raises(ListenError) as caught:
        Notifier()
    assert "NOTIFY_SOCKET" in str(caught.value)


def test_nobody_to_notify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody waits to be notified nothing happens, and no library is needed."""
    monkeypatch.setitem(sys.modules, "systemd", None)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("ready")
    notifier.stopping()


@pytest.mark.usefixtures("has_systemd")
def test_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness with a status, and the end, are told to whoever set NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waiting:
        waiting.bind(str(tmp_path / "notify"))
        waiting.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        notifier.ready("Serving")
        notifier.stopping()
        messages = [waiting.recv(1000).decode().splitlines() for _ in range(2)]
    assert messages[0] == ["READY=1", "STATUS=Serving"]
    assert messages[1][0] == "STOPPING=1"
