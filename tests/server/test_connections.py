"""Idleness: told when no connection has been open for the time configured, and only then."""

import asyncio

from pykcm.server.connections import Connections
from tests.server.members import FakeConnection
from tests.server.waiting import settle

FOREVER = 1e6


def test_idle_from_the_start() -> None:
    """A daemon that nobody connects to is idle after the time configured."""

    async def scenario() -> None:
        idle = asyncio.Event()
        connections = Connections(0.001, idle.set)
        connections.start_timer()
        async with asyncio.timeout(20):
            await idle.wait()

    asyncio.run(scenario())


def test_idle_after_the_last() -> None:
    """The time begins when the last connection closes, and not while one is open."""

    async def scenario() -> None:
        idle = asyncio.Event()
        connections = Connections(0.001, idle.set)
        connections.start_timer()
        one, other = FakeConnection(connections), FakeConnection(connections)
        connections.add(one)
        connections.add(other)
        assert connections._timer is None
        connections.discard(one)
        assert connections._timer is None
        assert not idle.is_set()
        connections.discard(other)
        async with asyncio.timeout(20):
            await idle.wait()

    asyncio.run(scenario())


def test_a_connection_stops_the_time() -> None:
    """A new connection stops the time; afterwards it begins anew and not where it was."""

    async def scenario() -> None:
        connections = Connections(FOREVER, lambda: None)
        connections.start_timer()
        first = connections._timer
        assert first is not None
        connection = FakeConnection(connections)
        connections.add(connection)
        assert first.cancelled()
        connections.discard(connection)
        second = connections._timer
        assert second is not None
        assert second is not first
        assert second.when() >= asyncio.get_running_loop().time() + FOREVER - 60
        await connections.finish(0)
        assert second.cancelled()

    asyncio.run(scenario())


def test_the_time_begins_anew() -> None:
    """There is one time at most: to begin it again ends the one before."""

    async def scenario() -> None:
        connections = Connections(FOREVER, lambda: None)
        connections.start_timer()
        first = connections._timer
        assert first is not None
        connections.start_timer()
        assert first.cancelled()
        await connections.finish(0)

    asyncio.run(scenario())


def test_a_connection_at_the_end() -> None:
    """One that comes when the end has begun is ended at once, and waited for."""

    async def scenario() -> None:
        connections = Connections(FOREVER, lambda: None)
        slow, late = FakeConnection(connections, good=False), FakeConnection(connections, good=False)
        connections.add(slow)
        finishing = asyncio.create_task(connections.finish(20))
        await asyncio.sleep(0)
        connections.add(late)
        assert late.was_finished
        connections.discard(slow)
        await settle()
        assert not finishing.done()
        connections.discard(late)
        assert await finishing == 0
        assert connections._timer is None

    asyncio.run(scenario())


def test_never_idle() -> None:
    """0 is never."""

    async def scenario() -> None:
        connections = Connections(0, lambda: None)
        connections.start_timer()
        connection = FakeConnection(connections)
        connections.add(connection)
        connections.discard(connection)
        assert connections._timer is None

    asyncio.run(scenario())


def test_finish() -> None:
    """All are told to end; those that do not in time are aborted and counted; no idle time begins."""

    async def scenario() -> None:
        connections = Connections(FOREVER, lambda: None)
        good = [FakeConnection(connections) for _ in range(3)]
        bad = [FakeConnection(connections, good=False) for _ in range(2)]
        for connection in good + bad:
            connections.add(connection)
        assert await connections.finish(0) == 2
        assert [connection.was_aborted for connection in good + bad] == [False] * 3 + [True] * 2
        for connection in bad:
            connections.discard(connection)
        assert connections._timer is None

    asyncio.run(scenario())


def test_finish_waits_for_the_last() -> None:
    """The end waits for a connection that closes a little later."""

    async def scenario() -> None:
        connections = Connections(0, lambda: None)
        slow = FakeConnection(connections, good=False)
        connections.add(slow)
        asyncio.get_running_loop().call_later(0.001, connections.discard, slow)
        assert await connections.finish(20) == 0
        assert not slow.was_aborted

    asyncio.run(scenario())
