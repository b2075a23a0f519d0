"""An upgrade of the package under systemd."""

from collections.abc import Callable
from pathlib import Path

from . import machine
from .clients import LabelledClient

_PACKAGES = Path(__file__).parents[2] / "packages"


def test_upgrade_restarts_the_service_and_not_the_socket(client_as: Callable[..., LabelledClient]) -> None:
    """The tickets survive an upgrade, and the socket is the same one: clients find it at every moment."""
    user = client_as(1000)
    user.kinit("alice")
    listed = user.klist()
    daemon = machine.main_pid()
    socket = machine.SOCKET.stat().st_ino
    (package,) = _PACKAGES.glob("pykcm_*.deb")
    machine.run("apt-get", "install", "--yes", "--reinstall", str(package))
    assert machine.main_pid() not in {0, daemon}
    assert machine.SOCKET.stat().st_ino == socket
    assert machine.property_of(machine.SOCKET_UNIT, "NRefused") == "0"
    assert user.klist() == listed
    assert user.kvno("host/server.pykcm.test")
