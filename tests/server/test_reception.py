"""Receiving connections: whose they are, how many of a user are served, and what is closed at once."""

import pytest

from pykcm.server.connections import Limits
from pykcm.sockets.acceptor import AcceptRates
from tests.server.conftest import Play
from tests.server.listening import NOOP, UID, Listening
from tests.server.waiting import settle, until


def test_a_user_that_connects_too_fast(
    play: Play, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of connections that come faster than they can be accepted, the first ones of a user are served."""
    # Clients here do not wait where the queue is full.
    monkeypatch.setattr("pykcm.sockets.acceptor.BACKLOG", 250)

    async def scenario(listening: Listening) -> None:
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

    # A clock that stands still: the tenth of a second is not over before all are accepted.
    play(scenario, rates=AcceptRates(20, lambda: 1000.0))
    told = f"UID {UID}: connections refused: it connects faster than it can be served"
    assert caplog.messages == [told]


def test_connections_one_after_the_other(play: Play) -> None:
    """A user whose connections are accepted as they come may have any number of them."""

    async def scenario(listening: Listening) -> None:
        for _ in range(100):
            client = listening.client()
            assert await client.ask(NOOP) == (0, b"")
            client.close()
        assert listening.connections.refused == 0

    play(scenario, rates=AcceptRates(20, lambda: 1000.0))


def test_a_request_that_is_there_already(play: Play) -> None:
    """A client that has sent its request before it is accepted is answered, and closed when it has gone."""

    async def scenario(listening: Listening) -> None:
        client = listening.client()
        client.socket.send(NOOP)
        assert await client.reply() == (0, b"")
        gone = listening.client()
        gone.socket.send(NOOP)
        gone.close()
        await until(lambda: listening.connections.accepted == 2 and listening.connections.open == 1)

    play(scenario)


def test_a_connection_too_many(play: Play) -> None:
    """A connection for which there is no room is closed at once, and takes nothing."""

    async def scenario(listening: Listening) -> None:
        busy = await listening.connected()
        await busy.send(NOOP[:5])
        await until(lambda: len(listening.deadlines) == 1)
        for _ in range(5):
            assert await listening.client().is_closed()
        assert listening.connections.open == 1
        assert len(listening.dispatcher.sessions) == 1

    play(scenario, limits=Limits(uid_connections=1))


def test_room_is_searched_once_for_many_connections(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of connections that are accepted together, one UID's cost one search for a connection to close."""
    searched = []

    async def scenario(listening: Listening) -> None:
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

    play(scenario, limits=Limits(uid_connections=1))
