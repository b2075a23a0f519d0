"""Ports for programs of the tests."""

import socket
from pathlib import Path

import pytest

from tests import ports
from tests.ports import free_port
from tests.processes import in_child


@pytest.fixture
def port(tmp_path: Path) -> int:
    """A free port, whose reservation has ended with its process."""
    file = tmp_path / "port"
    in_child(lambda: file.write_text(str(free_port())))
    return int(file.read_text())


def test_port_is_none_that_the_kernel_gives() -> None:
    """No connection, and no server that asks for any port, takes it before the test's program binds it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if lowest < 30_000:
        pytest.skip("the kernel of this machine gives lower ports as well")
    assert all(free_port() < lowest for _ in range(50))


def test_port_of_another_process_is_not_chosen(port: int) -> None:
    """A port is reserved although nothing is bound to it yet, until its process ends."""
    ports._reserve(port)

    def reserve_again() -> None:
        with pytest.raises(OSError, match="Address already in use"):
            ports._reserve(port)

    in_child(reserve_again)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_used_port_is_not_chosen(port: int, kind: socket.SocketKind) -> None:
    """A port that any program uses for TCP or for UDP is left alone."""
    with socket.socket(socket.AF_INET, kind) as used:
        used.bind(("127.0.0.1", port))
        for _ in range(2):
            with pytest.raises(OSError, match="Address already in use"):
                ports._reserve(port)
    ports._reserve(port)
