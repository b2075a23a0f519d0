"""docs/metrics.md as it stands: metrics of a sandboxed service, by its socket, and by a port and a proxy."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import machine
from .clients import LabelledClient
from .readme import commands_of

_DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
_TOML, _DROP_IN, *_UNITS = commands_of(_DOCUMENT, "Where to listen")
_PROXY = Path("/run/systemd/system/pykcm-metrics")
_SOCKET = "/run/pykcm-metrics/metrics.sock"
_PORT = 9464


@pytest.fixture
def scraped(client_as: Callable[..., LabelledClient]) -> None:
    """A daemon that has something to tell, with the document's option and drop-in."""
    machine.configure(_TOML)
    machine.drop_in(machine.SERVICE, _DROP_IN)
    client_as(1000).kinit("alice")


@pytest.fixture
def proxied(scraped: None) -> Iterator[None]:
    """The document's units; Debian's policy has no rule by which its proxy could listen at a port."""
    files = [_PROXY.with_suffix(suffix) for suffix in (".socket", ".service")]
    for file, unit in zip(files, _UNITS, strict=True):
        file.write_text(unit)
    machine.run("systemctl", "daemon-reload")
    with machine.permissive():
        machine.run("systemctl", "start", files[0].name)
        yield
        machine.run("systemctl", "stop", *(file.name for file in files))
    for file in files:
        file.unlink()
    machine.run("systemctl", "daemon-reload")


def page(sock: socket.socket, path: str) -> str:
    with sock:
        sock.settimeout(machine.PATIENCE)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    return received.decode().partition("\r\n\r\n")[2]


def at_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(_SOCKET)
    return sock


def check_pages(connect: Callable[[], socket.socket]) -> None:
    metrics = page(connect(), "/metrics")
    assert "\npykcm_ccaches 1\n" in metrics
    assert metrics.endswith("# EOF\n")
    assert page(connect(), "/health") == "ok\n"


def test_the_socket(scraped: None) -> None:
    """The daemon gives its metrics there, has no network, and nothing is denied to it."""
    check_pages(at_socket)
    assert Path(_SOCKET).stat().st_mode & 0o777 == 0o660
    assert machine.property_of(machine.SERVICE, "PrivateNetwork") == "yes"
    assert machine.denials("--comm", "pykcmd") == ""


def test_a_port(proxied: None) -> None:
    """By systemd's proxy there is the same at the port."""
    check_pages(lambda: socket.create_connection(("127.0.0.1", _PORT), machine.PATIENCE))
