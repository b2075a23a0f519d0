"""Who may listen where tickets and keys are handed over, and which folders keep others from it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pykcm.cli import listeners
from pykcm.cli.client import ControlClient
from pykcm.cli.listeners import check_listener
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.socket_folders import folder_of_others

DAEMON, OTHER = 20003, 20004

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as others")


def listening(path: Path, uid: int) -> socket.socket:
    """A socket at which a process of this UID began to listen."""
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
    """A socket of an ordinary user's in a folder where everybody writes."""
    top.chmod(0o1777)
    path = top / "control.sock"
    with listening(path, OTHER) as sock:
        yield path, sock


def why_not(path: Path, daemon_uid: int | None = None) -> str | None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        try:
            check_listener(sock, str(path), daemon_uid)
        except ControlError as refusal:
            return f"{refusal.code}: {refusal.message}"
    return None


def test_stranger_is_given_nothing(stranger: tuple[Path, socket.socket]) -> None:
    """A user who listens first gets no byte of an import or rekey; of what holds no secret the request."""
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
    """The kernel tells root for what systemd listens at, until the daemon does."""
    top.chmod(0o1777)
    with listening(top / "sock", 0):
        assert why_not(top / "sock") is None


def test_daemons_user_is_trusted(
    stranger: tuple[Path, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit's user is known by name, another one has to be named."""
    path, _ = stranger
    why = why_not(path)
    assert why is not None
    assert why.startswith(ErrorCode.PERMISSION)
    assert "--daemon-user" in why
    assert why_not(path, DAEMON) is not None
    assert why_not(path, OTHER) is None
    users = {"pykcm": SimpleNamespace(pw_uid=OTHER)}
    monkeypatch.setattr(listeners, "pwd", SimpleNamespace(getpwnam=users.__getitem__))
    assert why_not(path) is None


def test_own_user_is_trusted(stranger: tuple[Path, socket.socket]) -> None:
    """A daemon that a user has started by hand is that user's own to trust, and not another one's."""
    path, _ = stranger
    for uid, refused in ((OTHER, False), (DAEMON, True)):
        path.chmod(0o666)
        os.seteuid(uid)
        try:
            assert (why_not(path) is not None) == refused
        finally:
            os.seteuid(0)


def test_socket_that_only_root_can_have_made(top: Path) -> None:
    """A service with another User= is trusted at the socket that systemd made for it, and there alone."""
    folder = top / "run"
    folder.mkdir(0o755)
    path = folder / "control.sock"
    with listening(path, DAEMON):
        assert why_not(path) is not None
        os.chown(path, 0, 0)
        # Below /tmp others could have moved the whole way.
        assert why_not(path) is not None


def test_socket_of_roots_in_roots_folders(monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
    """The same where all folders are root's and closed: here a stand-in for /run."""
    path = top / "control.sock"
    with listening(path, DAEMON):
        monkeypatch.setattr(listeners, "folder_of_others", lambda *_, **__: None)
        assert why_not(path) is not None
        os.chown(path, 0, 0)
        assert why_not(path) is None


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
def test_folders_of_others(top: Path, mode: int, owner: int, *, is_open: bool) -> None:
    """What others write to without a sticky bit, or own, on the whole way; links are followed."""
    folder = top / "a" / "b"
    folder.mkdir(parents=True)
    (top / "link").symlink_to(folder)
    (top / "a").chmod(mode)
    os.chown(top / "a", owner, owner)
    for path in (folder / "sock", top / "link" / "sock", top / "a" / "sock"):
        assert folder_of_others(str(path), {0, DAEMON}) == (top / "a" if is_open else None)
    assert folder_of_others(str(folder / "sock"), {0, DAEMON}, trusts_sticky=False) is not None
