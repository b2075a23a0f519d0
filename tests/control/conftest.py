"""The requests of the control socket, made without a socket to each store in turn, or on a socket."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pykcm.control.connection import ControlConnection
from pykcm.peer.identity import Kernel
from pykcm.store.memory import MemoryStore
from tests.control.controlling import Controlling
from tests.control.listening import Administration, Listening
from tests.e2e.conftest import public_folder
from tests.server.asking import Server
from tests.server.conftest import alice, runner, server
from tests.sockets.conftest import anyio_backend

__all__ = ["alice", "anyio_backend", "runner", "server"]


@pytest.fixture
def control(server: Server) -> Controlling:
    """The administrator of that server."""
    return Controlling(server)


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    """A control socket that listens, on the memory store."""
    with public_folder() as folder:
        # The server runs in this test's event loop.
        server = Server(asyncio.Runner(), MemoryStore())
        administration = Administration(Controlling(server).administration)
        listening = Listening(folder / "control.sock", administration, Kernel())
        endpoint = await asyncio.get_running_loop().create_unix_server(
            lambda: ControlConnection(listening.controls), str(listening.path)
        )
        listening.path.chmod(0o666)
        yield listening
        endpoint.close()
