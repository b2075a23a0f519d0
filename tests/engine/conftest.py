"""A server on each store in turn, asked without a socket: the engine is tested by what its users see."""

from collections.abc import AsyncIterator

import pytest

from tests.engine.held_store import UID, HeldStore, Host, names
from tests.server.conftest import alice, bob, listen, root, runner, server
from tests.sockets.conftest import anyio_backend

__all__ = ["alice", "anyio_backend", "bob", "listen", "root", "runner", "server"]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host(HeldStore())
    await host.engine.read((UID,), names(), keep=True)
    yield host
    assert host.store.is_idle
    assert not host.engine.uid_queues.occupied
    # Memory is as the store is.
    assert await host.engine.read((UID,), names(), keep=True) == await host.durable()
