"""Receiving connections: whose they are, how many of a user are served, and what is closed at once."""

import pytest

from pykcm.server.connections import Limits
from pykcm.sockets.acceptor import AcceptRates
from tests.server.listening import NOOP, UID, Listen, Listening
from tests.server.waiting import settle, until


async def test_a_user_that_connects_too_fast(
    listen: Listen, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of connections that come faster than they can be accepted, the first ones of a user are served."""
    # Clients here do not wait where the queue is full.
    monkeypatch.setattr("pykcm.sockets.acceptor.BACKLOG", 250)
    # A clock that stands still: the tenth of a second is not over before all are accepted.
    listening = await listen(rates=AcceptRates(20, lambda: 1000.0))
    clients = [listening.client() for _ in range(250)]
    await until(lambda: listening.connections.accepted + listening.connections.refused == 250)
    assert listening.connections.accepted == 20
    for client in clients[:20]:
        assert await client.ask(NOOP) == (0, b"")
    for client in clients[20:]:
        assert await client.is_closed()
    # When nobody waits any more, its next one is served.
    await settle()
    assert await listening.client().ask(NOOP) == (0, b"")
    told = f"UID {UID}: connections refused: it connects faster than it can be served"
    assert caplog.messages == [told]


async def test_connections_one_after_the_other(listen: Listen) -> None:
    """A user whose connections are accepted as they come may have any number of them."""
    listening = await listen(rates=AcceptRates(20, lambda: 1000.0))
    for _ in range(100):
        client = listening.client()
        assert await client.ask(NOOP) == (0, b"")
        client.close()
    assert listening.connections.refused == 0


async def test_a_request_that_is_there_already(listening: Listening) -> None:
    """A client that has sent its request before it is accepted is answered, and closed when it has gone."""
    client = listening.client()
    client.socket.send(NOOP)
    assert await client.reply() == (0, b"")
    gone = listening.client()
    gone.socket.send(NOOP)
    gone.close()
    await until(lambda: listening.connections.accepted == 2 and listening.connections.open == 1)


async def test_a_connection_too_many(listen: Listen) -> None:
    """A connection for which there is no room is closed at once, and takes nothing."""
    listening = await listen(limits=Limits(uid_connections=1))
    busy = await listening.connected()
    await busy.send(NOOP[:5])
    await until(lambda: len(listening.deadlines) == 1)
    for _ in range(5):
        assert await listening.client().is_closed()
    assert listening.connections.open == 1
    assert len(listening.dispatcher.sessions) == 1


async def test_room_is_searched_once_for_many_connections(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of connections that are accepted together, one UID's cost one search for a connection to close."""
    searched = []
    listening = await listen(limits=Limits(uid_connections=1))
    busy = await listening.connected()
    await busy.send(NOOP[:5])
    await until(lambda: len(listening.deadlines) == 1)
    choose = listening.connections._choose_idle

    def search(uid: int) -> object:
        searched.append(uid)
        return choose(uid)

    monkeypatch.setattr(listening.connections, "_choose_idle", search)
    clients = [listening.client() for _ in range(50)]
    for client in clients:
        assert await client.is_closed()
    assert len(searched) <= 2
    assert listening.connections.refused == 50
    # What changes later is seen.
    await busy.send(NOOP[5:])
    assert await busy.reply() == (0, b"")
    assert await listening.client().ask(NOOP) == (0, b"")
