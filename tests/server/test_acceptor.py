"""Accepting connections: how many at a time, whose, and what happens where there are no descriptors."""

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from pykcm.server.acceptor import Acceptor, AcceptRates, Listener, TransportReception
from pykcm.server.listener import BoundSocket
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


class Told(asyncio.Protocol):
    """Notes its transport."""

    def __init__(self, told: list[asyncio.BaseTransport]) -> None:
        self._told = told

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._told.append(transport)


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


Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture
def play(loop_runner: asyncio.Runner) -> Callable[[Scenario], None]:
    """Plays a scenario on each event loop in turn."""
    return lambda scenario: loop_runner.run(scenario())


Play = Callable[[Scenario], None]


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("kind", ["sockets", "transports"])
def test_stopped_while_a_client_connects(play: Play, door: Door, turns: int, kind: str) -> None:
    """Once stopped, whoever has connected is known or waits in the kernel; and is accepted later."""

    async def scenario() -> None:
        kept, told = Kept(), list[asyncio.BaseTransport]()
        reception = kept if kind == "sockets" else TransportReception(lambda: Told(told))
        known: list[Any] = kept.sockets if kind == "sockets" else told
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
        for transport in told:
            transport.close()
        await settle()

    play(scenario)


def test_some_at_a_time(play: Play, door: Door) -> None:
    """Of many who wait, some are accepted in a turn of the event loop, and all of them soon."""

    async def scenario() -> None:
        kept = Kept()
        listener = Listener([(door.bound.socket, kept)])
        door.connect(300)
        listener.begin()
        most = before = 0
        while len(kept.sockets) < 300:
            await asyncio.sleep(0)
            most = max(most, len(kept.sockets) - before)
            before = len(kept.sockets)
        # Two turns may come between.
        assert 1 <= most <= 2 * 128
        assert kept.times_caught_up <= 1
        await until(lambda: kept.times_caught_up)
        await listener.stop()
        kept.close()

    play(scenario)


def test_a_turn_that_ends_with_the_last_client(play: Play, door: Door) -> None:
    """Where the last waiting client is accepted at the end of a turn, the backlog is known to be empty."""

    async def scenario() -> None:
        kept = Kept()
        # Each look at this clock is a second later: every turn ends after one connection.
        acceptor = Acceptor(door.bound.socket, kept, itertools.count().__next__)
        door.connect(2)
        acceptor.begin()
        await until(lambda: len(kept.sockets) == 2)
        assert kept.times_caught_up == 1
        acceptor.stop()
        kept.close()

    play(scenario)


def test_no_descriptors(play: Play, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Without descriptors clients wait; the loop is not kept busy, and the log has one line."""

    async def scenario() -> None:
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

    with caplog.at_level(logging.WARNING):
        play(scenario)
    assert caplog.messages == ["connections have to wait: none can be accepted: Too many open files"]


def test_stopped_without_descriptors(play: Play, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """While it waits for descriptors it can be stopped, and begins to accept no more by itself."""

    async def scenario() -> None:
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

    play(scenario)


def test_a_client_that_has_gone_already(play: Play, door: Door) -> None:
    """A client that connects and goes disturbs nobody behind it."""

    async def scenario() -> None:
        kept = Kept()
        listener = Listener([(door.bound.socket, kept)])
        door.connect(3)
        door.clients[0].close()
        listener.begin()
        await until(lambda: len(kept.sockets) == 3)
        assert kept.sockets[0].recv(1) == b""
        await listener.stop()
        kept.close()

    play(scenario)


# Rates


def test_a_rate() -> None:
    """While not all are accepted, each UID may have so many connections in a tenth of a second."""
    rates = AcceptRates(100, Clock())
    for uid in (1, 2, 3):
        assert [rates.count(uid) for _ in range(103)] == [0] * 100 + [1, 2, 3]


def test_whoever_keeps_nobody_waiting_has_no_rate() -> None:
    """As long as all who wait are accepted again and again, nothing is counted."""
    rates = AcceptRates(100, Clock())
    for _ in range(20):
        assert not any(rates.count(1) for _ in range(64))
        rates.caught_up()


def test_a_rate_is_of_a_time() -> None:
    """A tenth of a second later it may be as many again."""
    clock = Clock()
    rates = AcceptRates(100, clock)
    while not rates.count(1):
        pass
    clock.time += 0.05
    assert rates.count(1)
    clock.time += 0.051
    assert not rates.count(1)
