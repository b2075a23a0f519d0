"""The requests of the control socket, asked of a service on each store in turn."""

import asyncio
from collections.abc import Iterator

import pytest

from pykcm.store.interface import Store
from tests.control.controlling import Controlling
from tests.server.asking import Server


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for the whole test."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def server(runner: asyncio.Runner, store: Store) -> Server:
    """A service without quotas on an empty store."""
    return Server(runner, store)


@pytest.fixture
def control(server: Server) -> Controlling:
    """The administrator of that service."""
    return Controlling(server)
