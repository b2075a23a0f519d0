"""Limits on the memory that clients' requests and untaken replies take: as numbers, and over real sockets."""

import asyncio
import os
import resource

import pytest

from pykcm.logs import User
from pykcm.protocol.opcodes import Opcode
from pykcm.server.connection import State
from pykcm.server.connections import Connections, Limits
from tests.builders import credential_of_size
from tests.server.listening import (
    GET_CRED_LIST,
    INITIALIZE,
    MAX_REQUEST,
    NAME,
    NOOP,
    OK,
    Listen,
    Listening,
    list_size,
    request,
    store,
)
from tests.server.listening import UID as LISTENED_UID
from tests.server.members import BUSY, OTHER, UID, FakeConnection, filled, limited
from tests.server.waiting import settle, until

MIB = 1 << 20


def holding(connections: Connections, uid: int, *sizes: int) -> list[FakeConnection]:
    """Connections of the UID whose requests and replies take these bytes."""
    members = []
    for size in sizes:
        (member,) = filled(connections, uid, State.RECEIVING)
        member.request_memory = member.reply_memory = size
        assert connections.count_request_memory(member, size) is None
        assert connections.count_reply_memory(member, size) is None
        members.append(member)
    return members


@pytest.mark.parametrize("kind", ["count_request_memory", "count_reply_memory"])
def test_connection_that_exceeds_its_uids_limit_is_closed(kind: str) -> None:
    """If a UID's bytes exceed its limit, the connection whose bytes grew is closed, no other UID's."""
    connections = limited(uid_bytes=100, uid_unread=100)
    own = holding(connections, UID, 60, 40)
    (other,) = holding(connections, OTHER, 100)
    count = getattr(connections, kind)
    assert count(own[0], 1) is own[0]
    assert count(own[0], -2) is None
    assert count(own[1], 1) is None
    assert count(other, -100) is None


@pytest.mark.parametrize("kind", ["count_request_memory", "count_reply_memory"])
def test_largest_connection_of_the_largest_uid_is_closed(kind: str) -> None:
    """If the bytes of all exceed the limit, the largest connection of the UID with the most is closed."""
    connections = limited(bytes=100, uid_bytes=80, unread=100, uid_unread=80)
    most = holding(connections, UID, 10, 35, 15)
    (other,) = holding(connections, OTHER, 40)
    count = getattr(connections, kind)
    assert count(other, 5) is most[1]
    # A request in progress keeps its memory all the same.
    most[1].state = State.SERVING
    assert count(other, 5) is most[2]
    assert count(most[0], 5) is most[0]


def test_zero_is_no_limit_on_bytes() -> None:
    """With a limit of 0 any number of bytes is accepted."""
    connections = limited()
    (member,) = filled(connections, UID, BUSY)
    assert connections.count_request_memory(member, 1 << 40) is None


def test_bytes_are_subtracted_when_they_are_released() -> None:
    """The count is the sum of all connections' bytes, and 0 when all are released."""
    connections = limited()
    members = [*holding(connections, UID, 60, 40), *holding(connections, OTHER, 7)]
    assert (connections.request_memory, connections.reply_memory) == (107, 107)
    for member in members:
        connections.count_request_memory(member, -member.request_memory)
        connections.count_reply_memory(member, -member.reply_memory)
    assert (connections.request_memory, connections.reply_memory) == (0, 0)
    assert connections.requests.of(UID) == connections.replies.of(OTHER) == 0


# Requests, over sockets


def nearly(size: int) -> object:
    """Equals this size and the memory that Python takes beyond it."""
    return pytest.approx(size * 1.07, rel=0.07)


async def test_bytes_of_a_uids_requests_are_limited(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    """A connection whose incomplete request exceeds the UID's limit is closed; its bytes are free again."""
    half = 500_000
    whole = request(Opcode.NOOP, bytes(half + 1000))
    listening = await listen(limits=Limits(uid_bytes=2 * half + 250_000))
    held = [await listening.connected() for _ in range(2)]
    for client in held:
        await client.send(whole[:half])
    await until(lambda: listening.connections.request_memory >= 2 * half)
    assert listening.connections.request_memory == nearly(2 * half)
    small, large = await listening.connected(), await listening.connected()
    assert await small.ask(INITIALIZE) == (0, b"")
    await large.send(whole[:300_000])
    assert await large.is_closed()
    reason = "too many bytes of this UID's requests wait or are incomplete"
    assert caplog.messages == [f"{User(LISTENED_UID)}, process {os.getpid()}: connection closed: {reason}"]
    # Other connections are served, and complete requests are no longer held.
    assert await small.ask(store(1)) == (0, b"")
    assert listening.connections.request_memory == nearly(2 * half)
    await held[0].send(whole[half:])
    assert await held[0].reply() == (0, b"")
    assert listening.connections.request_memory == nearly(half)
    held[1].close()
    await until(lambda: not listening.connections.request_memory)


async def test_bytes_of_a_closed_connection_are_free_at_once(listen: Listen) -> None:
    """After a connection exceeded the limit, others of the same event-loop iteration have its room."""
    listening = await listen(limits=Limits(uid_bytes=285_000))
    clients = [await listening.connected() for _ in range(4)]
    for client, size in zip(clients, (100_000, 100_000, 100_000, 40_000), strict=True):
        client.socket.send(request(Opcode.NOOP, bytes(200_000))[:size])
    await until(lambda: listening.connections.open == 3)
    await until(lambda: listening.connections.request_memory >= 240_000)
    assert listening.connections.request_memory == nearly(240_000)


async def test_request_that_waits_for_the_disk_is_counted(listening: Listening) -> None:
    """A large request counts while it waits for the disk, and no longer."""
    client = await listening.connected()
    assert await client.ask(INITIALIZE) == (0, b"")
    large = request(Opcode.STORE, NAME + b"\0" + credential_of_size(200_000).blob)
    gate = await listening.hold(client, large)
    await until(lambda: listening.connections.request_memory == len(large) - 4)
    gate.set()
    assert await client.reply() == (0, b"")
    await until(lambda: not listening.connections.request_memory)


@pytest.mark.parametrize("others", [0, 1, 8])
async def test_waiting_tiny_requests_take_little_memory(listening: Listening, others: int) -> None:
    """Waiting requests of eight bytes take eight bytes each, on any number of connections."""
    clients = [await listening.connected() for _ in range(1 + others)]
    gate = await listening.hold(clients[0])
    for client in clients:
        # Each INITIALIZE waits for the disk, and thousands of requests wait behind it.
        client.socket.send(INITIALIZE + NOOP * 2_500)
    await settle()
    assert listening.connections.request_memory <= (16 * 1024 + 1024) * len(clients)
    gate.set()
    assert await clients[0].reply() == (0, b"")
    for client in clients:
        assert await client.receive(2_501 * len(OK)) == OK * 2_501


async def test_uid_with_many_held_bytes_is_read_in_small_pieces(listening: Listening) -> None:
    """While much of a UID's requests waits, its other connections are read as they are served."""
    longer = request(Opcode.NOOP, bytes(500))
    large = await listening.connected()
    await large.send(request(Opcode.NOOP, bytes(MAX_REQUEST - 4))[:-1])
    await until(lambda: listening.connections.request_memory >= MAX_REQUEST)
    held = listening.connections.request_memory
    clients = [await listening.connected() for _ in range(10)]
    listening.store.gate = asyncio.Event()
    for client in clients:
        client.socket.send(INITIALIZE + longer * 100)
    await until(lambda: all(each.state is State.SERVING for each in listening.made[1:]))
    assert listening.connections.request_memory - held <= 10 * 2048
    listening.store.gate.set()
    for client in clients:
        assert await client.receive(101 * len(OK)) == OK * 101


# Replies, over sockets


async def test_bytes_of_a_uids_untaken_replies_are_limited(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection whose untaken reply exceeds the UID's limit is closed; its bytes are free again."""
    listening = await listen(limits=Limits(uid_unread=600_000))
    clients = [await listening.connected() for _ in range(2)]
    await clients[0].fill(120)
    await clients[0].send(GET_CRED_LIST)
    await until(lambda: listening.made[0].state is State.SENDING)
    await clients[1].send(GET_CRED_LIST)
    await until(lambda: caplog.messages)
    assert "replies" in caplog.text
    await clients[0].receive(12 + list_size(120))
    await until(lambda: not listening.connections.reply_memory)


async def test_one_untaken_large_reply_is_kept_at_a_time(listening: Listening) -> None:
    """For a client that does not read, one reply waits; the next ones are made when it reads."""
    client = await listening.connected()
    await client.fill(100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply_size = 12 + list_size(100)
    sending = asyncio.create_task(client.send(GET_CRED_LIST * 100_000))
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    assert listening.connections.reply_memory == reply_size
    assert listening.connections.request_memory <= 32 * 1024
    assert not sending.done()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 8 * MIB
    sending.cancel()
    for _ in range(20):
        assert len(await client.receive(reply_size)) == reply_size
    client.close()


async def test_one_untaken_small_reply_is_kept_at_a_time(listening: Listening) -> None:
    """Replies of a few bytes do not pile up either, however many requests a client sends."""
    client = await listening.connected()
    count = 15_000
    sending = asyncio.create_task(client.send(request(Opcode.NOOP, bytes(92)) * count))
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    assert not sending.done()
    assert listening.connections.reply_memory == len(OK)
    assert await client.receive(count * len(OK)) == OK * count
    await sending
    assert await client.ask(NOOP) == (0, b"")


async def test_request_is_not_served_before_the_last_reply_is_taken(listening: Listening) -> None:
    """While a client does not read, its next request is not served, even if it comes separately."""
    client = await listening.connected()
    await client.fill(100)
    await client.send(GET_CRED_LIST)
    await until(lambda: listening.made[0].state is State.SENDING)
    owed = listening.connections.reply_memory
    await client.send(NOOP)
    await settle()
    assert listening.connections.reply_memory == owed
    code, _ = await client.reply()
    assert code == 0
    assert await client.reply() == (0, b"")
