"""Processes that hold a ccache open when their connections are closed by a limit or a restart."""

import signal
from contextlib import ExitStack

import pytest

from pykcm.protocol.opcodes import Opcode

from .clients import HeimdalClient, MitClient
from .conftest import USER, started
from .daemon import Pykcmd
from .holding import HEIMDAL_LIBRARY, MIT_LIBRARY, has_library, holding
from .raw import RawConnection

OWN = b"%d\0" % USER


@pytest.fixture
def heimdal_library() -> None:
    """For tests that need Heimdal's library itself."""
    if not has_library(HEIMDAL_LIBRARY):
        pytest.skip(f"there is no {HEIMDAL_LIBRARY} here")


@pytest.mark.usefixtures("heimdal_library")
@pytest.mark.parametrize("limit", ["max_uid_connections", "max_connections"])
def test_limit_closes_connections_of_mit_first(
    heimdal: HeimdalClient, mit: MitClient, stopped_pykcmd: Pykcmd, limit: str
) -> None:
    """MIT's idle connections are closed, and a process with Heimdal's older connection continues."""
    stopped_pykcmd.configure(f"{limit} = 3\n")
    with started(stopped_pykcmd) as pykcmd:
        mit.kinit("alice")
        with holding(heimdal, HEIMDAL_LIBRARY) as holder, ExitStack() as at_end:
            mits = [at_end.enter_context(RawConnection(pykcmd.socket_path, USER)) for _ in range(2)]
            for connection in mits:
                assert connection.ask(Opcode.GET_CRED_LIST, OWN) == 0
            for connection in mits:
                another = at_end.enter_context(holding(mit, MIT_LIBRARY))
                assert connection.is_closed()
                assert another.ask() == 0
                assert holder.ask() == 0
        assert f"{limit} (3) reached: an idle connection of UID {USER} " in pykcmd.log


@pytest.mark.usefixtures("heimdal_library")
def test_heimdal_process_ends_with_its_connection(heimdal: HeimdalClient, pykcmd: Pykcmd) -> None:
    """After a restart, Heimdal's process gets SIGPIPE at its next request."""
    heimdal.kinit("alice")
    with holding(heimdal, HEIMDAL_LIBRARY) as holder:
        assert holder.ask() == 0
        pykcmd.restart()
        assert holder.signal_of_asking() == signal.SIGPIPE
    assert heimdal.klist().principal.startswith("alice@")


def test_mit_process_connects_again(mit: MitClient, pykcmd: Pykcmd) -> None:
    """MIT's process continues after a restart, and after its connection was closed."""
    mit.kinit("alice")
    with holding(mit, MIT_LIBRARY) as holder:
        pykcmd.restart()
        assert holder.ask() == 0
