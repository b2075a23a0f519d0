"""What one user's clients may take up, over real sockets: connections, bytes, time, and replies not read."""

import asyncio
import os
import resource
import socket
import struct
import time
from itertools import count
from typing import Any

import pytest

from pykcm.peer.identity import Kernel, Peer, identify
from pykcm.protocol.framing import Frame, Sendable
from pykcm.protocol.opcodes import Opcode
from pykcm.server.client_socket import ClientSocket
from pykcm.server.connection import State
from pykcm.server.connections import Limits
from pykcm.server.deadlines import Late
from pykcm.server.fair_queue import Servable
from pykcm.server.outbox import Outbox
from pykcm.server.sessions import Session
from tests.builders import ALICE, credential_of_size, principal_bytes
from tests.server.listening import (
    GET_CRED_LIST,
    GET_PRINCIPAL,
    INITIALIZE,
    MAX_REQUEST,
    NAME,
    NOOP,
    UID,
    Client,
    Listen,
    Listening,
    request,
    store,
)
from tests.server.waiting import settle, until

OK = struct.pack(">IIi", 4, 0, 0)
MIB = 1 << 20

# So short that a test need not wait, and so long that what is on its way is there before.
PATIENCE = 0.2


async def lets_wait(client: Client, listening: Listening) -> None:
    """Have the client's change wait for the store."""
    listening.store.gate = asyncio.Event()
    before = len(listening.store.commits)
    await client.send(INITIALIZE)
    await until(lambda: len(listening.store.commits) > before)


# Connections


class FakeClock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def test_the_longest_idle_connection_gives_way(listen: Listen) -> None:
    """At the limit the connection whose last request is longest ago sees the end; the new one is served."""
    listening = await listen(limits=Limits(uid_connections=4))
    clients = [await listening.connected() for _ in range(4)]
    for index in (2, 0, 3, 1):
        assert await clients[index].ask(NOOP) == (0, b"")
    for gone in (2, 0):
        new = listening.client()
        assert await new.ask(NOOP) == (0, b"")
        assert await clients[gone].is_closed()
        # As libkrb5 expects it, to connect anew.
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
        (GET_CRED_LIST, True),
        (REPLACE, True),
        (MITS_RETRIEVE, True),
        (HEIMDALS_RETRIEVE, False),
        (BROKEN_RETRIEVE, False),
        (GET_PRINCIPAL, False),
    ],
    ids=[
        "GET_CRED_LIST",
        "REPLACE",
        "MIT's RETRIEVE",
        "another RETRIEVE",
        "broken RETRIEVE",
        "GET_PRINCIPAL",
    ],
)
@pytest.mark.parametrize("limits", [Limits(uid_connections=2), Limits(connections=2)], ids=["uid", "all"])
async def test_mits_connection_gives_way_first(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, message: bytes, is_mits: bool, limits: Limits
) -> None:
    """A connection that has shown MIT's client gives way before one that has been idle for longer."""
    pids = count(100)

    def identified(sock: socket.socket, kernel: Kernel) -> Peer:
        return identify(sock, kernel)._replace(pid=next(pids))

    listening = await listen(limits=limits)
    monkeypatch.setattr("pykcm.server.reception.identify", identified)
    unknown, escape = await listening.connected(), await listening.connected()
    await unknown.ask(NOOP)
    await escape.ask(message)
    await escape.ask(NOOP)
    assert await listening.client().ask(NOOP) == (0, b"")
    gone, kept = (escape, unknown) if is_mits else (unknown, escape)
    assert await gone.is_closed()
    assert await kept.ask(NOOP) == (0, b"")


@pytest.mark.parametrize("limits", [Limits(uid_connections=2), Limits(connections=2)], ids=["uid", "all"])
async def test_connections_under_way_are_kept(listen: Listen, limits: Limits) -> None:
    """While a request has begun, waits for the disk or has its reply not taken, its connection is kept."""
    listening = await listen(limits=limits)
    half, busy = await listening.connected(), await listening.connected()
    await half.send(GET_PRINCIPAL[:6])
    await until(lambda: listening.made[0].state is State.RECEIVING)
    await lets_wait(busy, listening)
    assert await listening.client().is_closed()
    assert listening.store.gate is not None
    listening.store.gate.set()
    listening.store.gate = None
    assert await busy.reply() == (0, b"")
    await half.send(GET_PRINCIPAL[6:])
    assert await half.reply() == (0, principal_bytes(ALICE))

    for number in range(50):
        assert await busy.ask(store(number)) == (0, b"")
    await busy.send(GET_CRED_LIST * 4)
    await until(lambda: listening.made[1].state is State.SENDING)
    new = listening.client()
    assert await new.ask(NOOP) == (0, b"")
    assert await half.is_closed()
    for _ in range(4):
        code, payload = await busy.reply()
        assert (code, len(payload)) == (0, 4 + 50 * (4 + 4096))


async def test_queued_requests_are_under_way(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose request waits for its turn does not give way."""
    listening = await listen(limits=Limits(uid_connections=1))
    client = await listening.connected()
    waiting: list[tuple[int, Servable]] = []
    with monkeypatch.context() as patched:
        patched.setattr(listening.fair_queue, "admits", lambda _: False)
        patched.setattr(listening.fair_queue, "wait", lambda *who: waiting.append(who))
        await client.send(NOOP)
        await until(lambda: waiting)
    assert waiting == [(UID, listening.made[0])]
    assert await listening.client().is_closed()
    waiting[0][1].take_turn()
    assert await client.reply() == (0, b"")
    assert await listening.client().ask(NOOP) == (0, b"")
    assert await client.is_closed()


async def test_what_the_kernel_holds_is_under_way(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose client has sent a request that is not read yet does not give way."""
    listening = await listen(limits=Limits(uid_connections=2))
    first, second = await listening.connected(), await listening.connected()
    for client in (first, second):
        assert await client.ask(NOOP) == (0, b"")
    waiting: list[Servable] = []
    with monkeypatch.context() as patched:
        patched.setattr(listening.fair_queue, "admits", lambda _: False)
        patched.setattr(listening.fair_queue, "wait", lambda _, servable: waiting.append(servable))
        await first.send(NOOP)
        await until(lambda: waiting)
    assert listening.made[0].has_unread
    assert not listening.made[1].has_unread
    assert await listening.client().ask(NOOP) == (0, b"")
    assert await second.is_closed()
    waiting[0].take_turn()
    assert await first.reply() == (0, b"")


# Bytes


def nearly(size: int) -> object:
    """Equals this size and what Python takes beyond it."""
    return pytest.approx(size * 1.07, rel=0.07)


async def test_bytes_of_a_uid_are_bounded(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    """Who brings more unfinished requests than a UID may hold is closed; what it held is free again."""
    half = 500_000
    whole = request(Opcode.NOOP, bytes(half + 1000))
    listening = await listen(limits=Limits(uid_bytes=2 * half + 250_000))
    held = [await listening.connected() for _ in range(2)]
    for client in held:
        await client.send(whole[:half])
    await until(lambda: listening.connections.held >= 2 * half)
    assert listening.connections.held == nearly(2 * half)
    small, large = await listening.connected(), await listening.connected()
    assert await small.ask(INITIALIZE) == (0, b"")
    await large.send(whole[:300_000])
    assert await large.is_closed()
    why = "too many bytes of this UID's requests wait or are incomplete"
    assert caplog.messages == [f"UID {UID} (process {os.getpid()}): connection closed: {why}"]
    # The others go on, and what is complete is no longer held.
    assert await small.ask(store(1)) == (0, b"")
    assert listening.connections.held == nearly(2 * half)
    await held[0].send(whole[half:])
    assert await held[0].reply() == (0, b"")
    assert listening.connections.held == nearly(half)
    held[1].close()
    await until(lambda: not listening.connections.held)


async def test_what_was_held_is_free_at_once(listen: Listen) -> None:
    """After a connection that brought too much, others of the same turn of the loop have its room."""
    listening = await listen(limits=Limits(uid_bytes=285_000))
    clients = [await listening.connected() for _ in range(4)]
    for client, size in zip(clients, (100_000, 100_000, 100_000, 40_000), strict=True):
        client.socket.send(request(Opcode.NOOP, bytes(200_000))[:size])
    await until(lambda: listening.connections.open == 3)
    await until(lambda: listening.connections.held >= 240_000)
    assert listening.connections.held == nearly(240_000)


async def test_waiting_requests_are_held(listening: Listening) -> None:
    """A large request counts while it waits for the disk, and no longer."""
    client = await listening.connected()
    assert await client.ask(INITIALIZE) == (0, b"")
    listening.store.gate = asyncio.Event()
    large = request(Opcode.STORE, NAME + b"\0" + credential_of_size(200_000).blob)
    await client.send(large)
    await until(lambda: listening.connections.held == len(large) - 4)
    listening.store.gate.set()
    assert await client.reply() == (0, b"")
    await until(lambda: not listening.connections.held)


@pytest.mark.parametrize("others", [0, 1, 20])
async def test_tiny_requests_take_what_they_are(listening: Listening, others: int) -> None:
    """Requests of eight bytes that wait take their eight bytes, on whatever number of connections."""
    clients = [await listening.connected() for _ in range(1 + others)]
    await lets_wait(clients[0], listening)
    for client in clients:
        # Each waits for the disk, and thousands stay behind it.
        client.socket.send(INITIALIZE + NOOP * 4_000)
    await settle()
    assert listening.connections.held <= (16 * 1024 + 1024) * len(clients)
    assert listening.store.gate is not None
    listening.store.gate.set()
    listening.store.gate = None
    for client in clients:
        assert await client.receive(12 * 4_001) == OK * 4_001


async def test_a_uid_that_has_enough_is_read_in_small_pieces(listening: Listening) -> None:
    """Once a UID has much waiting, its other connections are read as they are served."""
    longer = request(Opcode.NOOP, bytes(500))
    large = await listening.connected()
    await large.send(request(Opcode.NOOP, bytes(MAX_REQUEST - 4))[:-1])
    await until(lambda: listening.connections.held >= MAX_REQUEST)
    held = listening.connections.held
    clients = [await listening.connected() for _ in range(10)]
    listening.store.gate = asyncio.Event()
    for client in clients:
        client.socket.send(INITIALIZE + longer * 100)
    await until(lambda: all(each.state is State.SERVING for each in listening.made[1:]))
    assert listening.connections.held - held <= 10 * 2048
    listening.store.gate.set()
    for client in clients:
        assert await client.receive(12 * 101) == OK * 101


# Time


async def test_a_request_must_be_complete_in_time(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    """A connection whose request is not complete in time is closed, and the log says so; idle ones stay."""
    listening = await listen(patience=PATIENCE)
    late, idle = await listening.connected(), await listening.connected()
    assert await idle.ask(NOOP) == (0, b"")
    before = time.monotonic()
    await late.send(NOOP + GET_PRINCIPAL[:5])
    assert await late.reply() == (0, b"")
    assert await late.is_closed()
    assert time.monotonic() - before >= PATIENCE - 0.01
    assert await idle.ask(NOOP) == (0, b"")
    (message,) = caplog.messages
    assert message.startswith(f"UID {UID} (process ")
    assert "a request was not complete within" in message


async def test_trickling_gains_no_time(listen: Listen) -> None:
    """A byte now and then does not put off the end."""
    listening = await listen(patience=PATIENCE)
    client = await listening.connected()
    message = request(Opcode.NOOP, bytes(100_000))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - one of many does
        for at in range(len(message)):
            await client.send(message[at : at + 1])
            await asyncio.sleep(PATIENCE / 50)
    assert listening.made[0].state is State.CLOSED


async def test_each_request_has_its_own_time(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose every message ends within a request may go on, as long as each is complete in time."""
    begun: list[str] = []
    begin, end = listening.deadlines.begin, listening.deadlines.end

    def begins(late: Late) -> None:
        begun.append("begin")
        begin(late)

    def ends(late: Late) -> None:
        begun.append("end")
        end(late)

    monkeypatch.setattr(listening.deadlines, "begin", begins)
    monkeypatch.setattr(listening.deadlines, "end", ends)
    client = await listening.connected()
    await client.send(NOOP[:6])
    for _ in range(5):
        await until(lambda: listening.made[0].state is State.RECEIVING)
        await client.send(NOOP[6:] + NOOP[:6])
        assert await client.reply() == (0, b"")
    await until(lambda: listening.made[0].state is State.RECEIVING)
    await client.send(NOOP[6:])
    assert await client.reply() == (0, b"")
    assert len(listening.deadlines) == 0
    assert begun == ["begin", "end"] * 6


async def test_who_is_not_read_has_time(listen: Listen) -> None:
    """While it is the server that does not read, nothing is held against the client; afterwards it is."""
    listening = await listen(patience=PATIENCE)
    client, other = await listening.connected(), await listening.connected()
    await lets_wait(client, listening)
    await client.send(NOOP + GET_PRINCIPAL[:5])
    await settle()
    assert len(listening.deadlines) == 0
    # As long again: another one, which is read, does not get so much.
    await other.send(NOOP[:5])
    assert await other.is_closed()
    assert listening.store.gate is not None
    listening.store.gate.set()
    assert [await client.reply() for _ in range(2)] == [(0, b"")] * 2
    assert len(listening.deadlines) == 1
    assert await client.is_closed()


@pytest.mark.parametrize("limits", [Limits(uid_connections=1), Limits(connections=1)], ids=["uid", "all"])
async def test_an_unread_reply_is_given_up(listen: Listen, limits: Limits) -> None:
    """A client that has not taken its reply for 30 s gives way where the place is needed, and not before."""
    clock = FakeClock()
    listening = await listen(limits=limits, clock=clock)
    lazy = await listening.connected()
    assert await lazy.ask(INITIALIZE) == (0, b"")
    for number in range(60):
        assert await lazy.ask(store(number)) == (0, b"")
    await lazy.send(GET_CRED_LIST * 4 + NOOP)
    await until(lambda: listening.made[0].state is State.SENDING)
    clock.time += 29
    assert await listening.client().is_closed()
    clock.time += 2
    assert await listening.client().ask(NOOP) == (0, b"")


async def test_a_request_behind_the_choice_is_answered(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client sends in the moment in which its connection is to give way is answered all the same."""
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


# Replies that are not read


async def test_untaken_replies_of_a_uid_are_bounded(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    """Who leaves more replies untaken than a UID may is disconnected; what was owed is given back."""
    listening = await listen(limits=Limits(uid_unread=600_000))
    clients = [await listening.connected() for _ in range(2)]
    assert await clients[0].ask(INITIALIZE) == (0, b"")
    for number in range(120):
        assert await clients[0].ask(store(number)) == (0, b"")
    await clients[0].send(GET_CRED_LIST)
    await until(lambda: listening.made[0].state is State.SENDING)
    await clients[1].send(GET_CRED_LIST)
    await until(lambda: caplog.messages)
    assert "replies" in caplog.text
    assert len(await clients[0].receive(12 + 4 + 120 * (4 + 4096))) > 0
    await until(lambda: not listening.connections.owed)


async def test_unread_replies_are_not_piled_up(listening: Listening) -> None:
    """For a client that does not read, one reply waits and no more; the others come when it reads."""
    client = await listening.connected()
    await client.send(INITIALIZE + b"".join(store(number) for number in range(100)))
    assert await client.receive(101 * len(OK)) == OK * 101
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    reply_size = 12 + 4 + 100 * (4 + 4096)
    sending = asyncio.create_task(client.send(GET_CRED_LIST * 100_000))
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    assert listening.connections.owed == reply_size
    assert listening.connections.held <= 32 * 1024
    assert not sending.done()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 8 * MIB

    sending.cancel()
    for _ in range(20):
        assert len(await client.receive(reply_size)) == reply_size
    client.close()


async def test_unread_small_replies(listening: Listening) -> None:
    """Replies of a few bytes are not piled up either, however many requests a client sends."""
    client = await listening.connected()
    count = 15_000
    sending = asyncio.create_task(client.send(request(Opcode.NOOP, bytes(92)) * count))
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    assert not sending.done()
    assert listening.connections.owed == len(OK)
    assert await client.receive(count * len(OK)) == OK * count
    await sending
    assert await client.ask(NOOP) == (0, b"")


async def test_unread_replies_to_single_requests(listening: Listening) -> None:
    """While a client does not read, its next request is not served, though it comes alone."""
    client = await listening.connected()
    assert await client.ask(INITIALIZE) == (0, b"")
    for number in range(100):
        assert await client.ask(store(number)) == (0, b"")
    await client.send(GET_CRED_LIST)
    await until(lambda: listening.made[0].state is State.SENDING)
    owed = listening.connections.owed
    await client.send(NOOP)
    await settle()
    assert listening.connections.owed == owed
    code, _ = await client.reply()
    assert code == 0
    assert await client.reply() == (0, b"")


# Turns


async def test_turns_over_sockets(listening: Listening) -> None:
    """Pipelined requests of many connections are all answered, each connection's in their order."""
    clients = [await listening.connected() for _ in range(20)]
    assert await clients[0].ask(INITIALIZE) == (0, b"")
    for client in clients:
        await client.send((NOOP + GET_PRINCIPAL) * 200)
    one = OK + struct.pack(">IIi", 4 + len(principal_bytes(ALICE)), 0, 0) + principal_bytes(ALICE)
    replies = await asyncio.gather(*[client.receive(200 * len(one)) for client in clients])
    assert set(replies) == {one * 200}


async def test_going_away_in_the_rota(listening: Listening) -> None:
    """A client that goes away while its requests wait for their turn leaves nothing, and others go on."""
    gone, other = await listening.connected(), await listening.connected()
    await gone.send(NOOP * 20_000)
    await until(lambda: listening.fair_queue.waiting or listening.made[0].state is State.SENDING)
    gone.close()
    assert await other.ask(NOOP) == (0, b"")
    await until(lambda: listening.connections.open == 1)


@pytest.mark.parametrize("kind", ["long", "much", "neither"])
async def test_what_takes_long_waits(listen: Listen, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of many requests that come at once, those beyond a slice wait: each takes long, or its sending does."""
    clock = FakeClock()
    waiting: list[int] = []
    listening = await listen(clock=clock)
    clients = [await listening.connected() for _ in range(10)]
    assert await clients[0].ask(INITIALIZE) == (0, b"")
    clock.time += 1
    perform, wait, send = listening.dispatcher.answer, listening.fair_queue.wait, Outbox.send

    def performing(peer: Peer, frame: Frame, session: Session | None) -> Any:
        if kind == "long":
            clock.time += 0.000_2
        return perform(peer, frame, session)

    def sending(outbox: Outbox, reply: Sendable) -> int:
        if kind == "much":
            clock.time += 0.000_2
        return send(outbox, reply)

    def waits(uid: int, servable: Servable) -> None:
        waiting.append(uid)
        wait(uid, servable)

    monkeypatch.setattr(listening.dispatcher, "answer", performing)
    monkeypatch.setattr(listening.fair_queue, "wait", waits)
    monkeypatch.setattr(Outbox, "send", sending)
    waiting.clear()
    for client in clients:
        client.socket.send(GET_CRED_LIST)
    for client in clients:
        code, _ = await client.reply()
        assert code == 0
    assert bool(waiting) is (kind != "neither")


async def test_no_request_overtakes(listening: Listening) -> None:
    """Requests that come one by one behind one that waits for the disk are answered after it, in order."""
    client = await listening.connected()
    await lets_wait(client, listening)
    await client.send(NOOP)
    await settle()
    await client.send(GET_PRINCIPAL)
    await settle()
    with pytest.raises(BlockingIOError):
        client.socket.recv(1)
    assert listening.store.gate is not None
    listening.store.gate.set()
    assert [await client.reply() for _ in range(2)] == [(0, b"")] * 2
    assert await client.reply() == (0, principal_bytes(ALICE))
