"""Optional parts may be missing: the daemon logs one line, and serves tickets."""

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from tests.builders import ALICE

from .activation import listening
from .daemon import Pykcmd


def complaint(daemon: Pykcmd, environment: Mapping[str, str] | None = None) -> str:
    """Start, use and end the daemon; returns the only line of its log above the level info."""
    daemon.start(environment=environment)
    with KcmClient(daemon.socket_path) as kcm:
        kcm.initialize(kcm.get_default_cache(), ALICE)
    assert daemon.stop() == 0
    usual = ("pykcmd: debug: ", "pykcmd: info: ")
    (line,) = [line for line in daemon.log.splitlines() if not line.startswith(usual)]
    return line


# The control socket for pykcm-metrics.service


def _no_folder(folder: Path) -> str:
    return "No such file or directory"


def _no_socket(folder: Path) -> str:
    folder.mkdir()
    (folder / "control.sock").write_text("precious")
    return "is not a socket"


@pytest.mark.parametrize("prepare", [_no_folder, _no_socket])
def test_tickets_are_served_without_a_socket_for_metrics(
    stopped_pykcmd: Pykcmd, prepare: Callable[[Path], str]
) -> None:
    """Where the socket for pykcm-metrics.service cannot be bound, one line says why."""
    folder = stopped_pykcmd.folder / "pykcm-metrics"
    why = prepare(folder)
    line = complaint(stopped_pykcmd, environment={"RUNTIME_DIRECTORY": str(folder)})
    assert line.startswith(
        f"pykcmd: warning: pykcm-metrics.service cannot reach this daemon: {folder}/control.sock: "
    )
    assert why in line


# The control socket


@pytest.mark.parametrize("occupied", ["folder", "socket", "file"])
def test_tickets_are_served_without_a_control_socket(stopped_pykcmd: Pykcmd, occupied: str) -> None:
    """A control socket that cannot be bound is logged as an error, and the daemon starts."""
    path = stopped_pykcmd.control_path
    if occupied == "folder":
        stopped_pykcmd.control_path = path = stopped_pykcmd.folder / "nowhere" / "control.sock"
    elif occupied == "file":
        path.write_text("precious")
    other: AbstractContextManager[object] = listening(path) if occupied == "socket" else nullcontext()
    with other:
        line = complaint(stopped_pykcmd)
    assert line.startswith(f"pykcmd: error: pykcmctl cannot reach this daemon: no control socket: {path}: ")


# Prepends this code to pykcmd.
_AFTER = "import sys; {done}; from pykcm.daemon import main; sys.exit(main())"


def test_tickets_are_served_with_the_limit_of_open_files_as_it_is(stopped_pykcmd: Pykcmd) -> None:
    """If the limit of open files cannot be raised, the daemon uses the existing one."""
    stopped_pykcmd.configure("max_connections = 300\nmax_uid_connections = 50\n")
    done = "import tests.e2e.sandbox as sandbox; sandbox.refuse_more_files()"
    stopped_pykcmd.command = (sys.executable, "-c", _AFTER.format(done=done))
    line = complaint(stopped_pykcmd)
    assert "the limit of open files stays at 500, although 600 are allowed" in line
