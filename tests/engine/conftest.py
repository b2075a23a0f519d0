"""A server on each store in turn, asked without a socket: the engine is tested by what its users see."""

from tests.server.conftest import alice, bob, listen, root, runner, server
from tests.sockets.conftest import anyio_backend

__all__ = ["alice", "anyio_backend", "bob", "listen", "root", "runner", "server"]
