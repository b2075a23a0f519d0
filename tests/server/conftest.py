"""Servers without sockets, on each store in turn, their clients, and a server that listens."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pykcm.store.interface import Store
from tests.builders import ALICE, HTTP, TGS, credential_bytes
from tests.server.asking import Asking, Server
from tests.server.listening import Listen, Listening
from tests.sockets.conftest import anyio_backend

__all__ = ["anyio_backend"]


@pytest.fixture
async def listen(tmp_path: Path) -> AsyncIterator[Listen]:
    """Starts a listening server; it ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Listening:
            return await stack.enter_async_context(Listening(tmp_path / "kcm.sock", **options))

        yield start


@pytest.fixture
async def listening(listen: Listen) -> Listening:
    """A listening server without limits."""
    return await listen()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for the whole test."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def server(runner: asyncio.Runner, store: Store) -> Server:
    """A server without quotas on an empty store, of each kind in turn."""
    return Server(runner, store)


@pytest.fixture
def alice(server: Server) -> Asking:
    """Makes requests of UID 1000."""
    return server.ask_as(1000)


@pytest.fixture
def bob(server: Server) -> Asking:
    """Makes requests of UID 2000."""
    return server.ask_as(2000)


@pytest.fixture
def root(server: Server) -> Asking:
    """Makes requests of root."""
    return server.ask_as(0)


@pytest.fixture
def filled(alice: Asking) -> Asking:
    """UID 1000 with the ccache `1000`, which has a ticket of TGS and one of HTTP."""
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", credential_bytes(TGS))
    alice.store(b"1000", credential_bytes(HTTP))
    alice.set_kdc_offset(b"1000", -7)
    return alice


@pytest.fixture(params=["in memory", "read again"])
def reader(request: pytest.FixtureRequest, server: Server, filled: Asking) -> Asking:
    """The same ccache, in memory, and as a restart reads it."""
    return filled if request.param == "in memory" else server.restarted().ask_as(1000)
