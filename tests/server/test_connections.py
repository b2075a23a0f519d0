"""The idle time of the daemon, and the end of all connections."""

import asyncio

from pykcm.server.connections import Connections
from tests.server.members import FakeConnection
from tests.server.waiting import LIMIT, settle

FOREVER = 1e6

# Idle time


async def test_daemon_without_connections_is_idle_after_the_timeout() -> None:
    """A daemon that no client connects to is idle after the configured time."""
    idle = asyncio.Event()
    connections = Connections(0.001, idle.set)
    connections.start_timer()
    async with asyncio.timeout(LIMIT):
        await idle.wait()


async def test_idle_time_begins_with_the_last_close() -> None:
    """The idle time begins when the last connection closes, and not while one is open."""
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
    async with asyncio.timeout(LIMIT):
        await idle.wait()


async def test_connection_stops_the_idle_time() -> None:
    """A new connection stops the idle time, which begins again from zero when it closes."""
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


async def test_there_is_one_idle_timer() -> None:
    """Starting the idle time again cancels the timer before."""
    connections = Connections(FOREVER, lambda: None)
    connections.start_timer()
    first = connections._timer
    assert first is not None
    connections.start_timer()
    assert first.cancelled()
    await connections.finish(0)


async def test_idle_timeout_of_0_is_never() -> None:
    """With a timeout of 0 no idle time begins."""
    connections = Connections(0, lambda: None)
    connections.start_timer()
    connection = FakeConnection(connections)
    connections.add(connection)
    connections.discard(connection)
    assert connections._timer is None


# The end


async def test_connection_that_comes_during_the_end_is_finished() -> None:
    """A connection that comes after the end has begun is told to finish at once, and waited for."""
    connections = Connections(FOREVER, lambda: None)
    slow, late = FakeConnection(connections, good=False), FakeConnection(connections, good=False)
    connections.add(slow)
    finishing = asyncio.create_task(connections.finish(LIMIT))
    await asyncio.sleep(0)
    connections.add(late)
    assert late.was_finished
    connections.discard(slow)
    await settle()
    assert not finishing.done()
    connections.discard(late)
    assert await finishing == 0
    assert connections._timer is None


async def test_finish_aborts_late_connections() -> None:
    """Connections that do not finish in time are aborted and counted; no idle time begins."""
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


async def test_finish_waits_for_the_last_connection() -> None:
    """The end waits for a connection that closes a little later."""
    connections = Connections(0, lambda: None)
    slow = FakeConnection(connections, good=False)
    connections.add(slow)
    asyncio.get_running_loop().call_later(0.001, connections.discard, slow)
    assert await connections.finish(LIMIT) == 0
    assert not slow.was_aborted
