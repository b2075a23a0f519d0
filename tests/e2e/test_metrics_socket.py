"""The socket on which pykcm-metrics asks the daemon for statistics, as the units have it."""

import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pykcm.client import KcmClient

from .activation import launch_with, listening
from .conftest import OTHER, started
from .control import Pykcmctl
from .daemon import LIMIT, ROOT, Pykcmd
from .service_users import ask_as, become, pykcmd_with
from .serving_metrics import get, serving


@pytest.fixture
def metrics_folder(stopped_pykcmd: Pykcmd) -> Path:
    """The folder of RuntimeDirectory=, here open to every user."""
    folder = stopped_pykcmd.folder / "pykcm-metrics"
    folder.mkdir()
    return folder


def test_metrics_user_may_only_request_stats(
    several_uids: None, stopped_pykcmd: Pykcmd, metrics_folder: Path
) -> None:
    """Only that user and root may use the socket for pykcm-metrics.service."""
    stopped_pykcmd.command = pykcmd_with("pykcm-metrics")
    path = metrics_folder / "control.sock"
    with started_with(stopped_pykcmd, metrics_folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        # The unit's SupplementaryGroups=.
        path.chmod(0o666)
        for uid, request, said in (
            (OTHER, "stats", "answered"),
            (OTHER, "list", "permission: only root may make the request 'list' (this user may make: stats)"),
            (OTHER, "export", "permission: only root may make the request 'export'"),
            (OTHER + 1, "stats", "permission: only root may use it"),
            (0, "list", "answered"),
        ):
            assert ask_as(uid, path, request).startswith(said), (uid, request)
    assert not path.exists()


@contextmanager
def started_with(daemon: Pykcmd, metrics_folder: Path) -> Iterator[None]:
    daemon.start(environment={"RUNTIME_DIRECTORY": f"/run/other:{metrics_folder}"})
    yield
    assert daemon.stop() == 0


def test_scrapes_neither_keep_an_idle_daemon_running_nor_start_it(
    several_uids: None, stopped_pykcmd: Pykcmd, metrics_folder: Path
) -> None:
    """The daemon ends although it is scraped all the time; then the status is 503."""
    path = metrics_folder / "control.sock"
    stopped_pykcmd.command = pykcmd_with("pykcm-metrics")
    stopped_pykcmd.configure("responder_idle_timeout = 1\n")
    program = "import sys; from tests.e2e.test_metrics_socket import scrape; scrape(sys.argv[1])"
    with (
        listening(stopped_pykcmd.socket_path) as listener,
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as scraper,
    ):
        # Its imports may take longer than the daemon's idle time.
        assert scraper.stdout is not None
        assert scraper.stdout.readline() == "ready\n"
        # The open connection keeps the daemon running until the first scrape.
        with KcmClient(stopped_pykcmd.socket_path, timeout=LIMIT) as kcm:
            launch_with(stopped_pykcmd, [listener], environment={"RUNTIME_DIRECTORY": str(metrics_folder)})
            kcm.noop()
            path.chmod(0o666)
            assert scraper.stdin is not None
            scraper.stdin.write("\n")
            scraper.stdin.flush()
            assert scraper.stdout.readline() == "answered\n"
        assert scraper.wait(LIMIT) == 0
        assert stopped_pykcmd.wait() == 0
        with serving(stopped_pykcmd.folder, Pykcmctl(path).argv("metrics", "--listen", f"unix:{path}-http")):
            status, text = get(f"{path}-http", "/metrics")
            assert status == 503
            assert "Its first client starts it" in text


def scrape(path: str) -> None:
    """Ask the daemon as pykcm-metrics until it has ended, and say when it has answered for the first time.

    It begins when it gets a line.
    """
    from pykcm.cli.client import ControlClient

    become(OTHER)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    assert list(ControlClient(path).ask("stats"))
    print("answered", flush=True)  # noqa: T201
    with suppress(OSError):
        while list(ControlClient(path).ask("stats")):
            pass


def test_user_of_a_daemon_started_by_hand_may_make_every_request(
    stopped_pykcmd: Pykcmd, metrics_folder: Path
) -> None:
    """The user who has started it need not be root."""
    with started(stopped_pykcmd):
        assert Pykcmctl(stopped_pykcmd.control_path).json("list") == []
