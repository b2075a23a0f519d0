"""Receiving connections: rates and limits of a UID, and connections that are closed at once."""

import pytest

from pykcm.logs import User
from pykcm.server.connections import Limits
from pykcm.sockets.acceptor import AcceptRates
from tests.server.listening import NOOP, UID, Listen, Listening
from tests.server.waiting import settle, until


async def test_connections_of_a_uid_beyond_its_rate_are_closed(
    listen: Listen, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a UID connects faster than connections are accepted, the first of them are served."""
    # The clients of this test do not wait if the backlog is full.
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
    # When the backlog is empty again, its next connection is served.
    await settle()
    assert await listening.client().ask(NOOP) == (0, b"")
    line = f"{User(UID)}: connections refused: this user connects faster than can be served"
    assert caplog.messages == [line]


async def test_successive_connections_have_no_rate(listen: Listen) -> None:
    """A UID whose connections are accepted as they come may make any number of them."""
    listening = await listen(rates=AcceptRates(20, lambda: 1000.0))
    for _ in range(100):
        client = listening.client()
        assert await client.ask(NOOP) == (0, b"")
        client.close()
    assert listening.connections.refused == 0


async def test_request_sent_before_the_accept_is_answered(listening: Listening) -> None:
    """A request sent before its connection is accepted is answered; a client that has gone is closed."""
    client = listening.client()
    client.socket.send(NOOP)
    assert await client.reply() == (0, b"")
    gone = listening.client()
    gone.socket.send(NOOP)
    gone.close()
    await until(lambda: listening.connections.accepted == 2 and listening.connections.open == 1)


async def test_connection_without_room_is_closed_at_once(listen: Listen) -> None:
    """A connection without room is closed at once, and has no session."""
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
    """Connections of one UID that are accepted together cost one search for a connection to close."""
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
    # All are accepted in one turn, however slow the machine is.
    monkeypatch.setattr("pykcm.sockets.acceptor._TURN", 60)
    clients = [listening.client() for _ in range(50)]
    for client in clients:
        assert await client.is_closed()
    assert searched == [UID]
    assert listening.connections.refused == 50
    # The next event-loop iteration searches again.
    await busy.send(NOOP[5:])
    assert await busy.reply() == (0, b"")
    assert await listening.client().ask(NOOP) == (0, b"")
