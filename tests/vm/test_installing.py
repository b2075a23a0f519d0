"""pykcm, installed from its packages: its processes, users and privileges."""

import pwd
import re
from collections.abc import Callable

from . import machine
from .clients import LabelledClient


def test_first_kinit_starts_the_service(client_as: Callable[..., LabelledClient]) -> None:
    """The socket exists before the service runs; the first client starts it, and gets a ticket."""
    assert machine.SOCKET.is_socket()
    assert machine.main_pid() == 0
    user = client_as(1000)
    user.kinit("alice")
    assert machine.main_pid()
    assert user.klist().ccache == "KCM:1000"


def test_socket_is_enabled_and_for_everyone(pykcm: None) -> None:
    """The package has enabled the socket for each boot; everyone may connect to it."""
    assert machine.run("systemctl", "is-enabled", machine.SOCKET_UNIT) == "enabled\n"
    status = machine.SOCKET.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o666)


def test_daemon_has_no_privileges(client_as: Callable[..., LabelledClient]) -> None:
    """The daemon has its own user, no capabilities, no new privileges, and a filter of system calls."""
    client_as(1000).kinit("alice")
    user = pwd.getpwnam("pykcm")
    status = machine.status_of(machine.main_pid())
    assert user.pw_uid
    assert user.pw_gid
    assert status["Uid"] == [str(user.pw_uid)] * 4
    assert status["Gid"] == [str(user.pw_gid)] * 4
    assert status["Groups"] in ([], [str(user.pw_gid)])
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities][0], 16) == 0, capabilities
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]
    state = machine.STATE.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (user.pw_uid, user.pw_gid, 0o700)
    for path in machine.STATE.iterdir():
        assert path.stat().st_uid == user.pw_uid, path
        assert path.stat().st_mode & 0o077 == 0, path


def test_exposure_of_the_service_is_low(pykcm: None) -> None:
    """systemd-analyze gives the loaded unit a low exposure."""
    table = machine.run("systemd-analyze", "security", "--no-pager", machine.SERVICE)
    found = re.search(r"Overall exposure level for pykcm\.service: (\d+\.\d)", table)
    assert found, table
    assert float(found[1]) <= 1.5, table
