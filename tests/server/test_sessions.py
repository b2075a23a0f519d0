"""Sessions: the default that a process chose, while its connections are open."""

import socket

import pytest

from pykcm.protocol.opcodes import Opcode
from pykcm.server.sessions import Session, Sessions
from tests.builders import peer
from tests.server.listening import INITIALIZE, NOOP, UID, Listening, request
from tests.server.listening import NAME as LISTENED
from tests.server.waiting import until

NAME = b"1000:chosen"
GET_DEFAULT_CACHE = request(Opcode.GET_DEFAULT_CACHE)


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def opened(sessions: Sessions, pid: int, uid: int = 1000) -> Session:
    return sessions.open(peer(uid)._replace(pid=pid))


def test_connections_of_one_process_share_its_choice(sessions: Sessions) -> None:
    """The choice of a process on one connection counts on its others, of the same UID only."""
    first, second = opened(sessions, 1), opened(sessions, 1)
    first.chose(NAME, exists=False)
    assert second.awaits(NAME)
    assert not second.awaits(b"1000")
    assert not opened(sessions, 2).awaits(NAME)
    assert not opened(sessions, 1, uid=2000).awaits(NAME)


def test_process_is_remembered_until_its_last_connection_ends(sessions: Sessions) -> None:
    """One open connection is enough; with the last one the process is forgotten."""
    first, second = opened(sessions, 1), opened(sessions, 1)
    first.chose(NAME, exists=False)
    sessions.close(first)
    sessions.close(first)
    assert opened(sessions, 1).awaits(NAME)
    sessions.close(second)
    assert len(sessions) == 1


def test_process_is_forgotten_with_its_last_connection(sessions: Sessions) -> None:
    """A later connection with the same PID starts without a choice."""
    first = opened(sessions, 1)
    first.chose(NAME, exists=False)
    sessions.close(first)
    assert len(sessions) == 0
    assert not opened(sessions, 1).awaits(NAME)


def test_connections_that_clients_have_closed_do_not_count(sessions: Sessions) -> None:
    """A process that has closed its connections begins again, even if the server has not noticed yet."""
    gone: list[str] = []
    first, second = (
        sessions.open(peer(1000)._replace(pid=1), lambda name=name: name in gone)  # type: ignore[misc]
        for name in ("first", "second")
    )
    first.chose(NAME, exists=False)
    gone.append("first")
    third = opened(sessions, 1)
    assert third.awaits(NAME)
    sessions.close(third)
    gone.append("second")
    later = opened(sessions, 1)
    assert not later.awaits(NAME)
    later.chose(b"1000:later", exists=False)
    sessions.close(first)
    sessions.close(second)
    assert opened(sessions, 1).awaits(b"1000:later")


async def test_client_that_reconnects_starts_without_a_choice(listening: Listening) -> None:
    """The choice of a process is forgotten when it has closed its connections, noticed or not."""
    for number in range(20):
        chosen = b"%d:%d\0" % (UID, number)
        first = listening.client()
        assert await first.ask(INITIALIZE) == (0, b"")
        assert await first.ask(request(Opcode.SET_DEFAULT_CACHE, chosen)) == (0, b"")
        assert await first.ask(GET_DEFAULT_CACHE) == (0, chosen)
        first.close()
        second = listening.client()
        assert await second.ask(GET_DEFAULT_CACHE) == (0, LISTENED + b"\0")
        second.close()


def test_connections_without_a_pid_are_independent(sessions: Sessions) -> None:
    """PID 0 stands for every process of another PID namespace: each connection counts by itself."""
    first, second = opened(sessions, 0), opened(sessions, 0)
    first.chose(NAME, exists=False)
    assert first.awaits(NAME)
    assert not second.awaits(NAME)
    assert len(sessions) == 0
    sessions.close(first)
    sessions.close(second)


def test_existing_default_is_not_awaited(sessions: Sessions) -> None:
    """An existing default is awaited only after the process itself has destroyed it."""
    session = opened(sessions, 1)
    session.chose(NAME, exists=True)
    assert not session.awaits(NAME)
    session.destroyed(b"1000:other")
    assert not session.awaits(NAME)
    session.destroyed(NAME)
    assert session.awaits(NAME)
    session.filled(b"1000:other")
    assert session.awaits(NAME)
    session.filled(NAME)
    assert not session.awaits(NAME)


async def test_session_ends_with_its_connection(listening: Listening) -> None:
    """A session ends when its client closes the connection or its side, or is cut off."""
    sessions = listening.dispatcher.sessions
    # All are connections of this test's process.
    clients = [await listening.connected() for _ in range(3)]
    for client in clients:
        assert await client.ask(NOOP) == (0, b"")
    (key,) = sessions._processes
    assert key[0] == UID
    assert len(sessions._processes[key].sessions) == 3
    clients[0].close()
    clients[1].socket.shutdown(socket.SHUT_WR)
    await until(lambda: len(sessions._processes[key].sessions) == 1)
    await clients[2].send(b"\xff" * 8)
    await until(lambda: not sessions._processes)


async def test_half_closed_client_still_gets_its_replies(listening: Listening) -> None:
    """The session of a client that sends no more ends at once, and its requests are answered."""
    client = await listening.connected()
    await client.send(NOOP + INITIALIZE + NOOP)
    client.socket.shutdown(socket.SHUT_WR)
    assert [await client.reply() for _ in range(3)] == [(0, b"")] * 3
    assert await client.is_closed()
    assert len(listening.dispatcher.sessions) == 0
