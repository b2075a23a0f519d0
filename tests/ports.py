"""Ports of 127.0.0.1 for programs that are told their port, as a KDC is."""

import random
import socket
from contextlib import suppress
from pathlib import Path

_LOWEST = 10_000

# The kernel gives ports of this range to other programs at any moment: to connections, and to sockets that
# ask for any port. A port from it could be taken until the program of the test binds it.
_GIVEN_BY_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that is free for TCP and UDP, and that no other process of the tests gets.

    It stays reserved until this process ends, so that a server can be stopped and started again.
    """
    end = max(int(_GIVEN_BY_KERNEL.read_text().split()[0]), 30_000)
    while True:
        port = random.SystemRandom().randrange(_LOWEST, end)
        with suppress(OSError):
            _reserve(port)
            return port


def _reserve(port: int) -> None:
    """Raises OSError if the port is reserved or used."""
    with socket.socket(socket.AF_UNIX) as reservation:
        reservation.bind(f"\0pykcm-tests-port-{port}")
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.bind(("127.0.0.1", port))
        # The kernel removes the name when this process ends.
        reservation.detach()
