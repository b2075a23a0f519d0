"""A control socket that others could replace: pykcmctl sends no secrets, and the daemon warns."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import OTHER, started
from .control import Pykcmctl
from .daemon import Pykcmd, effective_uid


@pytest.fixture
def stranger(several_uids: None, folder: Path) -> Iterator[tuple[Path, socket.socket]]:
    """Another user who listens at a path of the daemon."""
    place = folder / "place"
    place.mkdir()
    os.chown(place, OTHER, OTHER)
    with socket.socket(socket.AF_UNIX) as sock:
        with effective_uid(OTHER):
            sock.bind(str(place / "control.sock"))
            sock.listen()
        sock.setblocking(False)
        yield place / "control.sock", sock


def test_other_user_gets_no_ticket_and_no_key(
    stranger: tuple[Path, socket.socket], folder: Path, export: Path
) -> None:
    """Import and rekey end with a message and status 4 before they send a byte."""
    path, sock = stranger
    key = folder / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(32))
    for arguments in (
        ["import", str(export)],
        ["import", "--dry-run", str(export)],
        ["rekey", "--new-key", str(key)],
    ):
        said = Pykcmctl(path).run(*arguments)
        assert (said.status, said.output) == (4, "")
        assert f"of UID {OTHER} listens at" in said.errors
        assert "--daemon-user" in said.errors
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.recv(1) == b""


@pytest.mark.parametrize(("mode", "warns"), [(0o777, True), (0o770, True), (0o755, False), (0o1777, False)])
def test_daemon_warns_of_unsafe_folder(
    stopped_pykcmd: Pykcmd, folder: Path, mode: int, *, warns: bool
) -> None:
    """If others can replace the control socket, the log names the folder; the daemon serves."""
    place = folder / "place"
    place.mkdir()
    place.chmod(mode)
    stopped_pykcmd.control_path = place / "control.sock"
    with started(stopped_pykcmd):
        assert Pykcmctl(stopped_pykcmd.control_path).json("list") == []
        assert (
            f"others than root can put their own socket there, because they own {place}" in stopped_pykcmd.log
        ) == warns
