"""Which processes may get tickets and keys through the control socket, and which folders protect it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pykcm.cli import client
from pykcm.cli.client import ControlClient, check_listener
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.peer import identity
from pykcm.sockets.bound_socket import folder_of_others

DAEMON, OTHER = 20003, 20004

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as others")


def listening(path: Path, uid: int) -> socket.socket:
    """A socket on which a process of this UID has called listen()."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    os.chown(path, uid, uid)
    os.seteuid(uid)
    try:
        sock.listen()
    finally:
        os.seteuid(0)
    return sock


@pytest.fixture
def stranger(top: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A socket of another user in a world-writable folder."""
    top.chmod(0o1777)
    path = top / "control.sock"
    with listening(path, OTHER) as sock:
        yield path, sock


def refusal_of(path: Path, daemon_uid: int | None = None) -> str | None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        try:
            check_listener(sock, str(path), daemon_uid)
        except ControlError as refusal:
            return f"{refusal.code}: {refusal.message}"
    return None


def test_other_user_gets_no_secrets(stranger: tuple[Path, socket.socket]) -> None:
    """A user who listens first gets no byte of import and rekey; requests without secrets are sent."""
    path, sock = stranger
    for name, arguments in (("import", {}), ("rekey", {"key": bytes(32)}), ("rekey", {"key": None})):
        with pytest.raises(ControlError, match=f"of UID {OTHER} listens at"):
            ControlClient(path).ask(name, items=[{"secret": b"ticket"}], **arguments)
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.recv(1) == b""
    ControlClient(path).ask("list").close()
    ControlClient(path, daemon_uid=OTHER).ask("import").close()


def test_root_and_systemd_are_trusted(top: Path) -> None:
    """The kernel reports root for systemd's sockets until the daemon listens."""
    top.chmod(0o1777)
    with listening(top / "sock", 0):
        assert refusal_of(top / "sock") is None


def test_user_of_daemon_is_trusted(
    stranger: tuple[Path, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user pykcm is trusted by name; any other user needs --daemon-user."""
    path, _ = stranger
    reason = refusal_of(path)
    assert reason is not None
    assert reason.startswith(ErrorCode.PERMISSION)
    assert "--daemon-user" in reason
    assert refusal_of(path, DAEMON) is not None
    assert refusal_of(path, OTHER) is None
    users = {"pykcm": SimpleNamespace(pw_uid=OTHER)}
    monkeypatch.setattr(identity, "pwd", SimpleNamespace(getpwnam=users.__getitem__))
    assert refusal_of(path) is None


def test_calling_user_is_trusted(stranger: tuple[Path, socket.socket]) -> None:
    """A daemon that a user has started by hand is trusted by that user only."""
    path, _ = stranger
    for uid, refused in ((OTHER, False), (DAEMON, True)):
        path.chmod(0o666)
        os.seteuid(uid)
        try:
            assert (refusal_of(path) is not None) == refused
        finally:
            os.seteuid(0)


def test_socket_of_root_below_tmp_is_not_trusted(top: Path) -> None:
    """A service with another User= is trusted only at a socket that systemd must have made."""
    folder = top / "run"
    folder.mkdir(0o755)
    path = folder / "control.sock"
    with listening(path, DAEMON):
        assert refusal_of(path) is not None
        os.chown(path, 0, 0)
        # Below /tmp, others could have moved a folder of the path.
        assert refusal_of(path) is not None


def test_socket_of_root_in_folders_of_root_is_trusted(monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
    """All folders belong to root and are closed; the folder here stands for /run."""
    path = top / "control.sock"
    with listening(path, DAEMON):
        monkeypatch.setattr(client, "folder_of_others", lambda *_, **__: None)
        assert refusal_of(path) is not None
        os.chown(path, 0, 0)
        assert refusal_of(path) is None


@pytest.mark.parametrize(
    ("mode", "owner", "is_open"),
    [
        (0o755, 0, False),
        (0o700, DAEMON, False),
        (0o775, 0, True),
        (0o757, 0, True),
        (0o1777, 0, False),
        (0o755, OTHER, True),
        (0o700, OTHER, True),
    ],
)
def test_folder_of_other_user_is_found(top: Path, mode: int, owner: int, *, is_open: bool) -> None:
    """A folder in the path is unsafe if others own it, or can write to it without a sticky bit."""
    folder = top / "a" / "b"
    folder.mkdir(parents=True)
    (top / "link").symlink_to(folder)
    (top / "a").chmod(mode)
    os.chown(top / "a", owner, owner)
    for path in (folder / "sock", top / "link" / "sock", top / "a" / "sock"):
        assert folder_of_others(str(path), {0, DAEMON}) == (top / "a" if is_open else None)
    assert folder_of_others(str(folder / "sock"), {0, DAEMON}, trusts_sticky=False) is not None
