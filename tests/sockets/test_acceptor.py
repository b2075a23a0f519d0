"""Accepting connections: how many at a time, of which UID, and without a free descriptor."""

import asyncio
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pykcm.sockets.acceptor import Acceptor, AcceptRates, Listener, TransportReception
from pykcm.sockets.bound_socket import BoundSocket
from tests.server.descriptors import no_descriptor_left
from tests.server.waiting import settle, until


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Kept:
    """Keeps the connections that it is given."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.times_caught_up = 0

    def take(self, sock: socket.socket) -> None:
        self.sockets.append(sock)

    def caught_up(self) -> None:
        self.times_caught_up += 1

    async def settled(self) -> None:
        pass

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


class TransportNotes(asyncio.Protocol):
    """Notes its transport."""

    def __init__(self, transports: list[asyncio.BaseTransport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(transport)


class Door:
    """A socket that listens, and clients that connect to it."""

    def __init__(self, path: Path) -> None:
        self.bound = BoundSocket(path)
        # More clients wait in some tests than the daemon allows.
        self.bound.socket.listen(512)
        self.path = path
        self.clients: list[socket.socket] = []

    def connect(self, number: int = 1) -> None:
        for _ in range(number):
            self.clients.append(socket.socket(socket.AF_UNIX))
            self.clients[-1].setblocking(False)
            self.clients[-1].connect(str(self.path))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.bound.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path / "kcm.sock")
    yield door
    door.close()


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("kind", ["sockets", "transports"])
async def test_stopped_listener_loses_no_connecting_client(door: Door, turns: int, kind: str) -> None:
    """After a stop, each client is accepted already or waits in the kernel, and is accepted later."""
    kept, transports = Kept(), list[asyncio.BaseTransport]()
    reception = kept if kind == "sockets" else TransportReception(lambda: TransportNotes(transports))
    known: list[Any] = kept.sockets if kind == "sockets" else transports
    listener = Listener([(door.bound.socket, reception)])
    listener.begin()
    door.connect()
    for _ in range(turns):
        await asyncio.sleep(0)
    await listener.stop()
    before = len(known)
    await settle()
    assert len(known) == before
    if not before:
        # It waits in the kernel.
        door.bound.socket.accept()[0].close()
    door.connect()
    await settle()
    assert len(known) == before
    listener.begin()
    await until(lambda: len(known) == before + 1)
    await listener.stop()
    kept.close()
    for transport in transports:
        transport.close()
    await settle()


async def test_clients_are_accepted_some_in_each_iteration(door: Door) -> None:
    """One iteration of the event loop accepts some of many waiting clients; all are accepted soon."""
    kept = Kept()
    listener = Listener([(door.bound.socket, kept)])
    door.connect(300)
    listener.begin()
    most = before = 0
    while len(kept.sockets) < 300:
        await asyncio.sleep(0)
        most = max(most, len(kept.sockets) - before)
        before = len(kept.sockets)
    # Two iterations may come between.
    assert 1 <= most <= 2 * 128
    assert kept.times_caught_up <= 1
    await until(lambda: kept.times_caught_up)
    await listener.stop()
    kept.close()


async def test_last_accepted_client_reports_an_empty_backlog(door: Door) -> None:
    """A turn that ends with the last waiting client reports that the backlog is empty."""
    kept = Kept()
    # Each look at this clock is a second later: every turn ends after one connection.
    acceptor = Acceptor(door.bound.socket, kept, itertools.count().__next__)
    door.connect(2)
    acceptor.begin()
    await until(lambda: len(kept.sockets) == 2)
    assert kept.times_caught_up == 1
    acceptor.stop()
    kept.close()


async def test_clients_wait_for_free_descriptors(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Without a free descriptor clients wait; the event loop is not kept busy, the log has one line."""
    kept = Kept()
    listener = Listener([(door.bound.socket, kept)])
    accepts = 0
    door.connect(3)
    with no_descriptor_left() as taken:
        listener.begin()
        await until(lambda: caplog.messages)
        for _ in range(1000):
            await asyncio.sleep(0)
            accepts += len(kept.sockets)
        assert accepts == 0
        for _ in range(3):
            os.close(taken.pop())
        await until(lambda: len(kept.sockets) == 3)
    await listener.stop()
    kept.close()
    assert caplog.messages == ["connections have to wait: none can be accepted: Too many open files"]


async def test_listener_without_descriptors_stays_stopped(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener that waits for descriptors can be stopped, and does not begin again by itself."""
    kept = Kept()
    listener = Listener([(door.bound.socket, kept)])
    door.connect()
    with no_descriptor_left():
        listener.begin()
        await until(lambda: caplog.messages)
    await listener.stop()
    await asyncio.sleep(0.1)
    assert kept.sockets == []
    listener.begin()
    await until(lambda: kept.sockets)
    await listener.stop()
    kept.close()


async def test_closed_client_does_not_affect_the_next_ones(door: Door) -> None:
    """The clients behind one that has closed its connection are accepted."""
    kept = Kept()
    listener = Listener([(door.bound.socket, kept)])
    door.connect(3)
    door.clients[0].close()
    listener.begin()
    await until(lambda: len(kept.sockets) == 3)
    assert kept.sockets[0].recv(1) == b""
    await listener.stop()
    kept.close()


# Rates


def test_connections_of_a_uid_are_limited_in_a_window() -> None:
    """While the backlog is not empty, each UID has a limit of connections in a tenth of a second."""
    rates = AcceptRates(100, Clock())
    for uid in (1, 2, 3):
        assert [rates.count(uid) for _ in range(103)] == [0] * 100 + [1, 2, 3]


def test_connections_are_not_limited_with_an_empty_backlog() -> None:
    """While the backlog is emptied again and again, no rate is counted."""
    rates = AcceptRates(100, Clock())
    for _ in range(20):
        assert not any(rates.count(1) for _ in range(64))
        rates.caught_up()


def test_limit_of_connections_starts_again_after_a_window() -> None:
    """A tenth of a second later the UID has its full limit again."""
    clock = Clock()
    rates = AcceptRates(100, clock)
    while not rates.count(1):
        pass
    clock.time += 0.05
    assert rates.count(1)
    clock.time += 0.051
    assert not rates.count(1)
