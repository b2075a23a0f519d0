"""A server on each store in turn, asked without a socket: the engine is tested by what its users see."""

from tests.server.conftest import alice, bob, host, loop_runner, one, play, root, runner, server, two

__all__ = ["alice", "bob", "host", "loop_runner", "one", "play", "root", "runner", "server", "two"]
