"""`pykcmctl metrics`: printed, and served over HTTP by its own process, also under systemd."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.control.parsing import parsed
from tests.ports import free_port

from .clients import MitClient
from .control import Pykcmctl
from .daemon import LIMIT, ROOT, Pykcmd
from .sandbox import only_unix_sockets
from .serving_metrics import Address, get, serving

# Run before pykcmctl and as its process: the socket goes to descriptor 3, as systemd passes it.
_PASS_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def ctl(stopped_pykcmd: Pykcmd) -> Pykcmctl:
    return Pykcmctl(stopped_pykcmd.control_path)


def test_printed_metrics_are_openmetrics(pykcmd: Pykcmd, ctl: Pykcmctl, mit: MitClient) -> None:
    """Prometheus's parser accepts the output."""
    mit.kinit("alice")
    names = {family.name for family in parsed(ctl.ok("metrics"))}
    assert {"pykcm_request_duration_seconds", "pykcm_ccaches"} <= names


@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_metrics_are_served_over_http(pykcmd: Pykcmd, ctl: Pykcmctl, where: str) -> None:
    """Each scrape asks the daemon that runs now. At the end, the socket is removed."""
    path = pykcmd.folder / "metrics.sock"
    port = free_port()
    listen = f"unix:{path}" if where == "unix" else f"127.0.0.1:{port}"
    address: Address = str(path) if where == "unix" else ("127.0.0.1", port)
    with serving(pykcmd.folder, ctl.argv("metrics", "--listen", listen)):
        if where == "unix":
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert get(address, "/health") == (200, "ok\n")
        status, text = get(address, "/metrics")
        assert status == 200
        # The fixture's own request.
        (count,) = [
            sample.value
            for family in parsed(text)
            for sample in family.samples
            if sample.name == "pykcm_request_duration_seconds_count"
            and sample.labels == {"operation": "NOOP"}
        ]
        assert count == 1
        assert pykcmd.stop() == 0
        status, text = get(address, "/health")
        assert (status, text[:20]) == (503, "pykcmd does not run:")
        assert get(address, "/metrics") == (503, text)
        pykcmd.start()
        assert get(address, "/health") == (200, "ok\n")
    assert not path.exists()


def test_scrape_of_a_stopped_daemon_has_a_timeout(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """Without an answer of the daemon the status is 503, and 200 when the daemon continues."""
    address = str(pykcmd.folder / "metrics.sock")
    with serving(pykcmd.folder, ctl.argv("metrics", "--listen", f"unix:{address}")):
        assert pykcmd.process is not None
        pykcmd.process.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert get(address, "/health") == (503, "pykcmd does not answer within 4 seconds\n")
            assert time.monotonic() - begun < 10
        finally:
            pykcmd.process.send_signal(signal.SIGCONT)
        assert get(address, "/health") == (200, "ok\n")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("arguments", [(), ("--listen", "unix:/nowhere/metrics.sock")])
def test_a_socket_from_systemd_is_served(
    pykcmd: Pykcmd, ctl: Pykcmctl, kind: str, arguments: tuple[str, ...]
) -> None:
    """It is used instead of `--listen`, and is not removed."""
    path = pykcmd.folder / "metrics.sock"
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as sock:
        sock.bind(str(path) if kind == "unix" else ("127.0.0.1", 0))
        sock.listen()
        wrapper = (sys.executable, "-c", _PASS_SOCKET, str(sock.fileno()))
        with serving(pykcmd.folder, ctl.argv("metrics", *arguments), wrapper, [sock.fileno()]):
            assert get(sock.getsockname(), "/health") == (200, "ok\n")
    assert path.exists() == (kind == "unix")


@pytest.mark.parametrize(
    "make",
    [
        lambda: socket.create_server(("0.0.0.0", 0)),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        lambda: socket.socket(socket.AF_INET),
    ],
    ids=["every address", "datagram", "does not listen"],
)
def test_another_socket_from_systemd_is_refused(ctl: Pykcmctl, make: Callable[[], socket.socket]) -> None:
    """Other machines must not be able to connect, also to a socket of systemd."""
    with make() as sock:
        done = subprocess.run(
            [sys.executable, "-c", _PASS_SOCKET, str(sock.fileno()), *ctl.argv("metrics")],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            cwd="/",
            pass_fds=[sock.fileno()],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
        )
    assert done.returncode == 1
    assert (
        "descriptor 3 from LISTEN_FDS does not listen at a Unix socket or a loopback address" in done.stderr
    )


def test_sockets_for_another_process_are_not_served(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """The metrics are printed, as without LISTEN_FDS."""
    said = ctl.run("metrics", environment={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    assert (said.status, said.output[-6:]) == (0, "# EOF\n")


# No place to listen


def _no_folder(folder: Path) -> str:
    return f"unix:{folder}/nowhere/metrics.sock"


def _no_socket(folder: Path) -> str:
    (folder / "metrics.sock").write_text("precious")
    return f"unix:{folder}/metrics.sock"


def _too_long_in_bytes(folder: Path) -> str:
    # At most 107 bytes are allowed; these characters have more than one.
    return f"unix:{folder}/".ljust(100, "\N{LATIN SMALL LETTER U WITH DIAERESIS}")


def _kcm_socket(folder: Path) -> str:
    return f"unix:{folder}/kcm.sock"


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (_no_folder, "No such file or directory"),
        (_no_socket, "is not a socket"),
        (_too_long_in_bytes, "path too long"),
        (_kcm_socket, "listens there"),
    ],
)
def test_unusable_path_is_an_error(
    pykcmd: Pykcmd, ctl: Pykcmctl, where: Callable[[Path], str], why: str
) -> None:
    """The message has the reason, and what to do."""
    said = ctl.run("metrics", "--listen", where(pykcmd.folder))
    assert said.status == 1
    assert why in said.errors
    assert "choose a path" in said.errors
    assert pykcmd.answers()


@pytest.mark.parametrize("backlog", [0, None], ids=["listening", "bound"])
def test_used_port_is_an_error(ctl: Pykcmctl, backlog: int | None) -> None:
    """Also if the other program does not listen yet."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        if backlog is not None:
            taken.listen(backlog)
        said = ctl.run("metrics", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert said.status == 1
    assert "Address already in use; another program listens there" in said.errors


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EPERM])
def test_without_a_network_the_error_names_the_socket_unit(ctl: Pykcmctl, code: int) -> None:
    """As under the unit's RestrictAddressFamilies=AF_UNIX."""
    wrapper = only_unix_sockets(code)
    if wrapper is None:
        pytest.skip("the number of socket(2) is not known for this machine")
    done = subprocess.run(
        [*wrapper, *ctl.argv("metrics", "--listen", "127.0.0.1:9464")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert "let pykcm-metrics.socket listen" in done.stderr


def test_address_that_is_not_loopback_is_wrong_usage(ctl: Pykcmctl) -> None:
    """The message has the right addresses."""
    said = ctl.run("metrics", "--listen", "0.0.0.0:9464")
    assert said.status == 2
    assert '"127.0.0.1:PORT"' in said.errors
