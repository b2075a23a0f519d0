"""Connections that make room for others when a limit on their number is reached, over real sockets."""

import socket
import struct
from itertools import count

import pytest

from pykcm.peer.identity import Kernel, Peer, identify
from pykcm.protocol.opcodes import Opcode
from pykcm.server.client_socket import ClientSocket
from pykcm.server.connection import State
from pykcm.server.connections import Limits
from pykcm.server.fair_queue import Servable
from tests.builders import ALICE, Clock, principal_bytes
from tests.server.listening import (
    GET_CRED_LIST,
    GET_PRINCIPAL,
    NAME,
    NOOP,
    UID,
    Client,
    Listen,
    Listening,
    list_size,
    request,
)
from tests.server.waiting import until


def either_limit(number: int) -> pytest.MarkDecorator:
    """The test runs with this limit on one UID's connections, and with it on all connections."""
    limits = [Limits(uid_connections=number), Limits(connections=number)]
    return pytest.mark.parametrize("limits", limits, ids=["uid", "all"])


async def queue_a_request(
    listening: Listening, client: Client, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, Servable]:
    """Have the client's request wait in the fair queue; return the UID and the connection that wait."""
    waiting: list[tuple[int, Servable]] = []
    with monkeypatch.context() as patched:
        patched.setattr(listening.fair_queue, "admits", lambda _: False)
        patched.setattr(listening.fair_queue, "wait", lambda *queued: waiting.append(queued))
        await client.send(NOOP)
        await until(lambda: waiting)
    [queued] = waiting
    return queued


async def test_longest_idle_connection_gives_way(listen: Listen) -> None:
    """At the limit the connection with the oldest last request gets the end; the new one is served."""
    listening = await listen(limits=Limits(uid_connections=4))
    clients = [await listening.connected() for _ in range(4)]
    for index in (2, 0, 3, 1):
        assert await clients[index].ask(NOOP) == (0, b"")
    for gone in (2, 0):
        new = listening.client()
        assert await new.ask(NOOP) == (0, b"")
        assert await clients[gone].is_closed()
        # libkrb5 connects again on this error.
        with pytest.raises(BrokenPipeError):
            await clients[gone].send(NOOP)
        assert listening.connections.open == 4
    assert [await clients[index].ask(NOOP) for index in (3, 1)] == [(0, b"")] * 2


MITS_RETRIEVE = request(Opcode.RETRIEVE, NAME + b"\0" + struct.pack(">II", 1, 0))
HEIMDALS_RETRIEVE = request(Opcode.RETRIEVE, NAME + b"\0" + struct.pack(">II", 1 << 30, 0))
BROKEN_RETRIEVE = request(Opcode.RETRIEVE, NAME)
REPLACE = request(Opcode.REPLACE, NAME + b"\0" + bytes(4) + principal_bytes(ALICE) + bytes(4))


@pytest.mark.parametrize(
    ("message", "is_mits"),
    [
        pytest.param(GET_CRED_LIST, True, id="GET_CRED_LIST"),
        pytest.param(REPLACE, True, id="REPLACE"),
        pytest.param(MITS_RETRIEVE, True, id="MIT's RETRIEVE"),
        pytest.param(HEIMDALS_RETRIEVE, False, id="another RETRIEVE"),
        pytest.param(BROKEN_RETRIEVE, False, id="broken RETRIEVE"),
        pytest.param(GET_PRINCIPAL, False, id="GET_PRINCIPAL"),
    ],
)
@either_limit(2)
async def test_mits_connection_gives_way_first(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, message: bytes, is_mits: bool, limits: Limits
) -> None:
    """A connection known to be of MIT's client gives way before one that has been idle for longer."""
    listening = await listen(limits=limits)
    pids = count(100)

    def identified(sock: socket.socket, kernel: Kernel) -> Peer:
        return identify(sock, kernel)._replace(pid=next(pids))

    monkeypatch.setattr("pykcm.server.reception.identify", identified)
    older, newer = await listening.connected(), await listening.connected()
    await older.ask(NOOP)
    await newer.ask(message)
    await newer.ask(NOOP)
    assert await listening.client().ask(NOOP) == (0, b"")
    gone, kept = (newer, older) if is_mits else (older, newer)
    assert await gone.is_closed()
    assert await kept.ask(NOOP) == (0, b"")


@either_limit(2)
async def test_connections_with_a_request_in_progress_are_kept(listen: Listen, limits: Limits) -> None:
    """A connection is kept while a request is incomplete or waits for the disk, or a reply is not taken."""
    listening = await listen(limits=limits)
    half, busy = await listening.connected(), await listening.connected()
    await half.send(GET_PRINCIPAL[:6])
    await until(lambda: listening.made[0].state is State.RECEIVING)
    gate = await listening.hold(busy)
    assert await listening.client().is_closed()
    gate.set()
    assert await busy.reply() == (0, b"")
    await half.send(GET_PRINCIPAL[6:])
    assert await half.reply() == (0, principal_bytes(ALICE))

    await busy.fill(50)
    await busy.send(GET_CRED_LIST * 4)
    await until(lambda: listening.made[1].state is State.SENDING)
    assert await listening.client().ask(NOOP) == (0, b"")
    assert await half.is_closed()
    for _ in range(4):
        code, payload = await busy.reply()
        assert (code, len(payload)) == (0, list_size(50))


async def test_connection_with_a_queued_request_is_kept(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose request waits for its turn does not give way."""
    listening = await listen(limits=Limits(uid_connections=1))
    client = await listening.connected()
    uid, queued = await queue_a_request(listening, client, monkeypatch)
    assert (uid, queued) == (UID, listening.made[0])
    assert await listening.client().is_closed()
    queued.take_turn()
    assert await client.reply() == (0, b"")
    assert await listening.client().ask(NOOP) == (0, b"")
    assert await client.is_closed()


async def test_connection_with_an_unread_request_is_kept(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose client has sent a request that is not read yet does not give way."""
    listening = await listen(limits=Limits(uid_connections=2))
    first, second = await listening.connected(), await listening.connected()
    for client in (first, second):
        assert await client.ask(NOOP) == (0, b"")
    _, queued = await queue_a_request(listening, first, monkeypatch)
    assert listening.made[0].has_unread
    assert not listening.made[1].has_unread
    assert await listening.client().ask(NOOP) == (0, b"")
    assert await second.is_closed()
    queued.take_turn()
    assert await first.reply() == (0, b"")


async def test_request_sent_while_its_connection_gives_way_is_answered(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that comes in the moment in which its connection is chosen to give way is answered."""
    listening = await listen(limits=Limits(uid_connections=1))
    client = await listening.connected()
    assert await client.ask(NOOP) == (0, b"")
    # It comes after the kernel was asked, and before the connection closes.
    monkeypatch.setattr(ClientSocket, "has_unread", False)
    client.socket.send(NOOP)
    other = listening.client()
    assert await client.reply() == (0, b"")
    assert await client.is_closed()
    with pytest.raises(BrokenPipeError):
        await client.send(NOOP)
    assert await other.ask(NOOP) == (0, b"")


@either_limit(1)
async def test_connection_gives_way_after_30_s_with_an_untaken_reply(listen: Listen, limits: Limits) -> None:
    """A client that has not taken its reply for 30 s gives way if its place is needed, and not before."""
    clock = Clock()
    listening = await listen(limits=limits, clock=clock)
    lazy = await listening.connected()
    await lazy.fill(60)
    await lazy.send(GET_CRED_LIST * 4 + NOOP)
    await until(lambda: listening.made[0].state is State.SENDING)
    clock.now += 29
    assert await listening.client().is_closed()
    clock.now += 2
    assert await listening.client().ask(NOOP) == (0, b"")
