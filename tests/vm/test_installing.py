"""pykcm as installed by README's commands."""

from collections.abc import Callable

from . import machine
from .clients import LabelledClient


def test_the_first_kinit_starts_the_service(client_as: Callable[..., LabelledClient]) -> None:
    """The socket is there before the service; the first client starts it, and has a ticket."""
    assert machine.SOCKET.is_socket()
    assert machine.main_pid() == 0
    user = client_as(1000)
    user.kinit("alice")
    assert machine.main_pid()
    assert user.klist().ccache == "KCM:1000"
