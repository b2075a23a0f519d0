"""A service under a policy of SELinux categories."""

import asyncio
from collections.abc import Callable

import pytest

from pykcm.store.interface import Store
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, Mcs
from tests.server.asking import Asking, Server

Ask = Callable[[str], Asking]


@pytest.fixture
def server(runner: asyncio.Runner, store: Store) -> Server:
    """A service under a policy of categories, on an empty store of each kind in turn."""
    return Server(runner, store, policy=Mcs())


@pytest.fixture
def one(server: Server) -> Asking:
    """Makes requests of UID 1000 in a container."""
    return server.ask_as(1000, CONTAINER_1)


@pytest.fixture
def two(server: Server) -> Asking:
    """Makes requests of UID 1000 in another container."""
    return server.ask_as(1000, CONTAINER_2)


@pytest.fixture
def host(server: Server) -> Asking:
    """Makes requests of UID 1000 outside containers, without constraints."""
    return server.ask_as(1000, HOST)


@pytest.fixture(params=["one service", "restarts"])
def ask(request: pytest.FixtureRequest, server: Server) -> Ask:
    """Connects as UID 1000 of a label: to one service, and to one that is restarted each time."""
    if request.param == "restarts":
        return lambda label: server.restarted().ask_as(1000, label)
    return lambda label: server.ask_as(1000, label)
