"""`pykcmctl metrics`: printed, and served over HTTP by a process of its own, also as systemd starts it."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.control.parsing import parsed

from .activation import Notifications, launch_with, listening
from .clients import MitClient
from .conftest import OTHER, started
from .control import Pykcmctl
from .daemon import LIMIT, ROOT, Pykcmd
from .kdc import free_port
from .sandbox import only_unix_sockets

Address = str | tuple[str, int]

# Run before pykcmctl and as its process: the socket goes to descriptor 3, as systemd passes it.
_PASS_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""

# pykcmd on a host that has the user pykcm-metrics.
_WITH_USER = f"""
import pwd, sys, types
pwd.getpwnam = lambda name: {{"pykcm-metrics": types.SimpleNamespace(pw_uid={OTHER})}}[name]
from pykcm.daemon import main
sys.exit(main())
"""


def get(address: Address, target: str) -> tuple[int, str]:
    """The status and body of a page."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


@contextmanager
def serving(
    folder: Path, argv: Sequence[str], wrapper: Sequence[str] = (), pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves metrics; it is ready, and SIGTERM ends it in order."""
    notifications = Notifications(folder / "metrics-notify")
    process = subprocess.Popen(
        [*wrapper, *argv],
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(notifications.path),
        },
        cwd="/",
        pass_fds=pass_fds,
    )
    try:
        assert notifications.next()["READY"] == "1"
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        assert notifications.next()["STOPPING"] == "1"
    finally:
        process.kill()
        process.wait(LIMIT)
        notifications.close()
        notifications.path.unlink()


@pytest.fixture
def ctl(stopped_pykcmd: Pykcmd) -> Pykcmctl:
    return Pykcmctl(stopped_pykcmd.control_path)


def test_printed_metrics_are_openmetrics(pykcmd: Pykcmd, ctl: Pykcmctl, mit: MitClient) -> None:
    """Prometheus's parser takes what is printed."""
    mit.kinit("alice")
    names = {family.name for family in parsed(ctl.ok("metrics"))}
    assert {"pykcm_request_duration_seconds", "pykcm_ccaches"} <= names


@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_metrics_over_http(pykcmd: Pykcmd, ctl: Pykcmctl, where: str) -> None:
    """Each scrape is of the daemon that runs now. At the end nothing is left."""
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


def test_a_stopped_daemon_keeps_no_scrape_waiting(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """A daemon that does not answer is 503 in time, and answers again when it goes on."""
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
    """It is served instead of an address, and stays where it is."""
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
    """Nobody else's machine may connect, however the socket came."""
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
    """Then the metrics are printed, as without them."""
    said = ctl.run("metrics", environment={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    assert (said.status, said.output[-6:]) == (0, "# EOF\n")


# No place to listen


def _no_folder(folder: Path) -> str:
    return f"unix:{folder}/nowhere/metrics.sock"


def _no_socket(folder: Path) -> str:
    (folder / "metrics.sock").write_text("precious")
    return f"unix:{folder}/metrics.sock"


def _too_long_in_bytes(folder: Path) -> str:
    # 107 characters are allowed, which are more bytes.
    return f"unix:{folder}/".ljust(100, "\N{LATIN SMALL LETTER U WITH DIAERESIS}")


def _kcm_socket(folder: Path) -> str:
    return f"unix:{folder}/kcm.sock"


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (_no_folder, "No such file or directory"),
        (_no_socket, "is no socket"),
        (_too_long_in_bytes, "path too long"),
        (_kcm_socket, "listens there"),
    ],
)
def test_a_path_where_no_socket_can_be_is_an_error(
    pykcmd: Pykcmd, ctl: Pykcmctl, where: Callable[[Path], str], why: str
) -> None:
    """It says why, and what to do."""
    said = ctl.run("metrics", "--listen", where(pykcmd.folder))
    assert said.status == 1
    assert why in said.errors
    assert "choose a path" in said.errors
    assert pykcmd.answers()


@pytest.mark.parametrize("backlog", [0, None], ids=["listening", "bound"])
def test_a_port_that_is_taken_is_an_error(ctl: Pykcmctl, backlog: int | None) -> None:
    """Also where the other program does not listen yet."""
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


def test_an_address_of_another_machine_is_wrong_usage(ctl: Pykcmctl) -> None:
    """The message has the addresses that are right."""
    said = ctl.run("metrics", "--listen", "0.0.0.0:9464")
    assert said.status == 2
    assert '"127.0.0.1:PORT"' in said.errors


# As the units have it


@pytest.fixture
def metrics_folder(stopped_pykcmd: Pykcmd) -> Path:
    """The folder that RuntimeDirectory= makes, here open to every user."""
    folder = stopped_pykcmd.folder / "pykcm-metrics"
    folder.mkdir()
    return folder


def test_the_metrics_user_may_ask_for_stats_alone(
    several_uids: None, stopped_pykcmd: Pykcmd, metrics_folder: Path
) -> None:
    """By the socket for pykcm-metrics.service, and as nobody but that user and root."""
    stopped_pykcmd.command = (sys.executable, "-c", _WITH_USER)
    path = metrics_folder / "control.sock"
    with started_with(stopped_pykcmd, metrics_folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        # The unit's SupplementaryGroups=.
        path.chmod(0o666)
        program = "import sys; from tests.e2e.test_metrics import ask; ask(sys.argv[1:])"
        for uid, request, said in (
            (OTHER, "stats", "answered"),
            (OTHER, "list", "permission: only root may make the request 'list' (this user may make: stats)"),
            (OTHER, "export", "permission: only root may make the request 'export'"),
            (OTHER + 1, "stats", "permission: only root may use it"),
            (0, "list", "answered"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", program, str(path), request, str(uid)],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
                timeout=LIMIT,
            )
            assert done.stdout.startswith(said), (uid, request)
    assert not path.exists()


def ask(arguments: list[str]) -> None:
    """Ask the daemon as this UID, which this process becomes when it has imported all."""
    from pykcm.cli.client import ControlClient
    from pykcm.control.messages import ControlError

    path, name, uid = arguments
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    try:
        list(ControlClient(path).ask(name))
        print("answered")  # noqa: T201
    except ControlError as error:
        print(f"{error.code}: {error.message}")  # noqa: T201


@contextmanager
def started_with(daemon: Pykcmd, metrics_folder: Path) -> Iterator[None]:
    daemon.start(environment={"RUNTIME_DIRECTORY": f"/run/other:{metrics_folder}"})
    yield
    assert daemon.stop() == 0


def test_scrapes_neither_keep_an_idle_daemon_running_nor_start_it(
    several_uids: None, stopped_pykcmd: Pykcmd, metrics_folder: Path
) -> None:
    """The daemon ends, however often it is scraped, and its metrics are 503 from then on."""
    path = metrics_folder / "control.sock"
    stopped_pykcmd.command = (sys.executable, "-c", _WITH_USER)
    stopped_pykcmd.configure("responder_idle_timeout = 1\n")
    program = "import sys; from tests.e2e.test_metrics import scrape; scrape(sys.argv[1])"
    with listening(stopped_pykcmd.socket_path) as listener:
        launch_with(stopped_pykcmd, [listener], environment={"RUNTIME_DIRECTORY": str(metrics_folder)})
        deadline = time.monotonic() + LIMIT
        while not path.exists():
            assert time.monotonic() < deadline
        path.chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            timeout=LIMIT,
        )
        assert int(done.stdout) > 0
        assert stopped_pykcmd.wait() == 0
        with serving(stopped_pykcmd.folder, Pykcmctl(path).argv("metrics", "--listen", f"unix:{path}-http")):
            status, text = get(f"{path}-http", "/metrics")
            assert status == 503
            assert "Its first client starts it" in text


def scrape(path: str) -> None:
    """Ask the daemon as pykcm-metrics until it has ended; print how often it has answered."""
    from pykcm.cli.client import ControlClient

    os.setgroups([])
    os.setgid(OTHER)
    os.setuid(OTHER)
    answers = 0
    try:
        while list(ControlClient(path).ask("stats")):
            answers += 1
    except OSError:
        print(answers)  # noqa: T201


def test_a_daemon_started_by_hand_is_administered_by_its_own_user(
    stopped_pykcmd: Pykcmd, metrics_folder: Path
) -> None:
    """Whoever starts it may make every request, without being root."""
    with started(stopped_pykcmd):
        assert Pykcmctl(stopped_pykcmd.control_path).json("list") == []
