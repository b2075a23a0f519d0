"""The commands of docs/metrics.md: metrics over HTTP, from a sandboxed service with its own user."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import machine
from .clients import LabelledClient
from .readme import commands_of

_DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
_COMMANDS, _DROP_IN = commands_of(_DOCUMENT, "Over HTTP")
_ENABLE = _COMMANDS.splitlines()[0]

_SOCKET_UNIT = "pykcm-metrics.socket"
_SERVICE = "pykcm-metrics.service"
_HTTP_SOCKET = "/run/pykcm-metrics.sock"
_PORT = 9464

_CONTROL = "/run/pykcm-metrics/control.sock"
_PYKCMCTL = ("/usr/bin/pykcmctl", "--socket", _CONTROL)
_AS_METRICS = ("setpriv", "--reuid=pykcm-metrics", "--regid=pykcm-metrics")


@pytest.fixture
def scraped(client_as: Callable[..., LabelledClient]) -> Iterator[None]:
    """A daemon with one ccache; the units for metrics are stopped at the end."""
    client_as(1000).kinit("alice")
    yield
    machine.run("systemctl", "disable", "--now", _SOCKET_UNIT)
    machine.run("systemctl", "stop", _SERVICE)


@pytest.fixture
def at_socket(scraped: None) -> Callable[[], socket.socket]:
    """Install the document's drop-in for a Unix socket; returns a function that connects to it."""
    machine.drop_in(_SOCKET_UNIT, _DROP_IN)
    machine.shell(_ENABLE)

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(_HTTP_SOCKET)
        return sock

    return connect


def page(sock: socket.socket, path: str) -> tuple[int, str]:
    """Return the status and the text of a page."""
    with sock:
        sock.settimeout(machine.PATIENCE)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, text = received.decode().partition("\r\n\r\n")
    return int(head.split()[1]), text


def check_pages(connect: Callable[[], socket.socket]) -> None:
    status, metrics = page(connect(), "/metrics")
    assert status == 200, metrics
    assert "\npykcm_ccaches 1\n" in metrics
    assert metrics.endswith("# EOF\n")
    assert page(connect(), "/health") == (200, "ok\n")


def test_metrics_at_a_unix_socket(at_socket: Callable[[], socket.socket]) -> None:
    """The service has its own user and no network, and the policy denies the daemon nothing."""
    check_pages(at_socket)
    assert Path(_HTTP_SOCKET).stat().st_mode & 0o777 == 0o660
    assert machine.property_of(_SERVICE, "User") == "pykcm-metrics"
    for unit in (machine.SERVICE, _SERVICE):
        assert machine.property_of(unit, "PrivateNetwork") == "yes"
    assert machine.denials("--comm", "pykcmd") == ""


def test_scrape_does_not_start_the_daemon(at_socket: Callable[[], socket.socket]) -> None:
    """While the daemon does not run, the pages have status 503, until a client starts it."""
    machine.run("systemctl", "stop", machine.SERVICE)
    for path in ("/metrics", "/health"):
        status, text = page(at_socket(), path)
        assert (status, text[:20]) == (503, "pykcmd does not run:")
    assert machine.main_pid() == 0
    machine.run("systemctl", "start", machine.SERVICE)
    check_pages(at_socket)


def test_metrics_user_may_only_request_statistics(scraped: None) -> None:
    """The daemon refuses the user's other requests; without the daemon's group it cannot connect."""
    control = Path(_CONTROL)
    assert control.stat().st_mode & 0o777 == 0o660
    assert control.parent.stat().st_mode & 0o777 == 0o750
    in_group = (*_AS_METRICS, "--groups=pykcm", *_PYKCMCTL)
    assert machine.run(*in_group, "metrics").endswith("# EOF\n")
    # pykcmctl itself would make some of these requests over the KCM socket, for the user's own ccaches.
    for request in ("list", "show", "export", "import", "destroy", "switch", "watch", "trace", "rekey"):
        refusal = machine.refusal(_CONTROL, request, *_AS_METRICS, "--groups=pykcm")
        assert "permission: only root may make the request" in refusal
    refused = machine.attempt(*_AS_METRICS, "--clear-groups", *_PYKCMCTL, "metrics")
    assert (refused.returncode, "only root may use" in refused.stdout) == (4, True)
    assert machine.denials("--comm", "pykcmd") == ""


def test_metrics_at_a_port(scraped: None) -> None:
    """The unchanged unit serves the loopback address.

    Permissive: what systemd may listen on for a service without a domain of its own is up to Debian's policy.
    """
    with machine.permissive():
        machine.shell(_ENABLE)
        check_pages(lambda: socket.create_connection(("127.0.0.1", _PORT), machine.PATIENCE))
