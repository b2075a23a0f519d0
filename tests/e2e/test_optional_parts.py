"""What tickets do not need may be missing: the daemon says so in one line, and serves."""

import errno
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from tests.builders import ALICE

from .activation import listening
from .daemon import Pykcmd
from .sandbox import only_unix_sockets


def complaint(daemon: Pykcmd, wrapper: Sequence[str] = ()) -> str:
    """Start the daemon, use it and end it; gives the only line of its log that needs attention."""
    daemon.start(wrapper=wrapper)
    with KcmClient(daemon.socket_path) as kcm:
        kcm.initialize(kcm.get_default_cache(), ALICE)
    assert daemon.stop() == 0
    usual = ("pykcmd: debug: ", "pykcmd: info: ")
    (line,) = [line for line in daemon.log.splitlines() if not line.startswith(usual)]
    return line


# metrics_listen


def _no_folder(folder: Path) -> str:
    return f"unix:{folder}/nowhere/metrics.sock"


def _no_socket(folder: Path) -> str:
    (folder / "metrics.sock").write_text("precious")
    return f"unix:{folder}/metrics.sock"


def _no_folder_but_a_file(folder: Path) -> str:
    (folder / "file").touch()
    return f"unix:{folder}/file/metrics.sock"


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
        (_no_folder_but_a_file, "Not a directory"),
        (_too_long_in_bytes, "path too long"),
        (_kcm_socket, "listens there"),
    ],
)
def test_tickets_are_served_without_a_socket_for_metrics(
    stopped_pykcmd: Pykcmd, where: Callable[[Path], str], why: str
) -> None:
    """Where `metrics_listen` leads to no socket, one error line says why, and tickets are served."""
    serves_without_metrics(stopped_pykcmd, where(stopped_pykcmd.folder), why)


@pytest.mark.parametrize("backlog", [0, None], ids=["listening", "bound"])
def test_tickets_are_served_without_a_port_for_metrics(stopped_pykcmd: Pykcmd, backlog: int | None) -> None:
    """A port that another program has leaves the tickets alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        if backlog is not None:
            taken.listen(backlog)
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        serves_without_metrics(stopped_pykcmd, listen, "Address already in use")


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "[::1]:9464"])
@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EPERM])
def test_tickets_are_served_without_a_network_for_metrics(
    stopped_pykcmd: Pykcmd, address: str, code: int
) -> None:
    """Under the unit's RestrictAddressFamilies=AF_UNIX the log names the drop-in, and tickets are served."""
    wrapper = only_unix_sockets(code)
    if wrapper is None:
        pytest.skip("the number of socket(2) is not known for this machine")
    serves_without_metrics(stopped_pykcmd, address, "docs/metrics.md", wrapper)


def serves_without_metrics(daemon: Pykcmd, listen: str, why: str, wrapper: Sequence[str] = ()) -> None:
    """Start a daemon that cannot have its metrics at `listen`: it says why, in one line."""
    daemon.configure(f'metrics_listen = "{listen}"\n')
    line = complaint(daemon, wrapper)
    assert line.startswith("pykcmd: error: no metrics, but tickets are served: metrics_listen")
    assert why in line


# The control socket


@pytest.mark.parametrize("occupied", ["folder", "socket", "file"])
def test_tickets_are_served_without_a_control_socket(stopped_pykcmd: Pykcmd, occupied: str) -> None:
    """A control socket that cannot be bound is an error line that names it, and no reason not to start."""
    path = stopped_pykcmd.control_path
    if occupied == "folder":
        stopped_pykcmd.control_path = path = stopped_pykcmd.folder / "nowhere" / "control.sock"
    elif occupied == "file":
        path.write_text("precious")
    other: AbstractContextManager[object] = listening(path) if occupied == "socket" else nullcontext()
    with other:
        line = complaint(stopped_pykcmd)
    assert line.startswith(f"pykcmd: error: pykcmctl cannot reach this daemon: no control socket: {path}: ")


# What makes it faster

# A program that is pykcmd, once this has been done.
_AFTER = "import sys; {done}; from pykcm.daemon import main; sys.exit(main())"


def test_tickets_are_served_without_a_uvloop_that_works(stopped_pykcmd: Pykcmd) -> None:
    """A uvloop that does not fit this Python, and fails when it is imported, is done without."""
    broken = stopped_pykcmd.folder / "broken" / "uvloop"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import asyncio\nasyncio.AbstractChildWatcherThatHasGone\n")
    done = f"sys.path.insert(0, {str(broken.parent)!r})"
    stopped_pykcmd.command = (sys.executable, "-c", _AFTER.format(done=done))
    line = complaint(stopped_pykcmd)
    assert line.startswith("pykcmd: warning: uvloop does not work here, asyncio's event loop serves: Attrib")


def test_tickets_are_served_with_the_limit_of_open_files_as_it_is(stopped_pykcmd: Pykcmd) -> None:
    """Where the limit of open files may not be raised, the daemon serves with the one that there is."""
    stopped_pykcmd.configure("max_connections = 300\nmax_uid_connections = 50\n")
    done = "import tests.e2e.sandbox as sandbox; sandbox.refuse_more_files()"
    stopped_pykcmd.command = (sys.executable, "-c", _AFTER.format(done=done))
    line = complaint(stopped_pykcmd)
    assert "the limit of open files stays at 500, although 600 are allowed" in line
