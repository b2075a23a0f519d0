"""Ends of connections: by the client, in the middle of a request, and at the end of the daemon."""

import asyncio
import socket

import pytest

from pykcm.server.connection import State
from tests.builders import ALICE, principal_bytes
from tests.server.descriptors import no_descriptor_left
from tests.server.listening import (
    GET_CRED_LIST,
    GET_PRINCIPAL,
    INITIALIZE,
    NOOP,
    Listening,
    list_size,
    store,
)
from tests.server.waiting import LIMIT, settle, until

# The client ends


async def test_half_closed_client_gets_its_replies(listening: Listening) -> None:
    """A client that closes its side after its requests gets every reply, then the end."""
    for requests, count in [(INITIALIZE + GET_PRINCIPAL, 2), (NOOP, 1), (b"", 0)]:
        client = listening.client()
        await client.send(requests)
        client.socket.shutdown(socket.SHUT_WR)
        for _ in range(count):
            code, _ = await client.reply()
            assert code == 0
        assert await client.is_closed()


async def test_half_close_while_a_request_waits(listening: Listening) -> None:
    """A client that closes its side while its first request waits for the disk gets every reply."""
    client = await listening.connected()
    gate = await listening.hold(client, INITIALIZE + store(1) + GET_PRINCIPAL + store(2) + NOOP)
    client.socket.shutdown(socket.SHUT_WR)
    await settle()
    gate.set()
    replies = [await client.reply() for _ in range(5)]
    assert replies == [(0, b""), (0, b""), (0, principal_bytes(ALICE)), (0, b""), (0, b"")]
    assert await client.is_closed()


async def test_half_close_long_before_reading(listening: Listening) -> None:
    """A client that closes its side long before it reads its replies gets all of them."""
    client = listening.client()
    await client.fill(50)
    await client.send(GET_CRED_LIST * 20)
    client.socket.shutdown(socket.SHUT_WR)
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    for _ in range(20):
        code, payload = await client.reply()
        assert (code, len(payload)) == (0, list_size(50))
    assert await client.is_closed()


async def test_half_close_in_the_middle_of_a_request(listening: Listening) -> None:
    """An end in the middle of a request closes the connection, after the replies to the complete ones."""
    client = listening.client()
    await client.send(INITIALIZE + GET_PRINCIPAL[:-1])
    client.socket.shutdown(socket.SHUT_WR)
    assert await client.reply() == (0, b"")
    assert await client.is_closed()


async def test_change_of_a_client_that_has_gone_is_made(listening: Listening) -> None:
    """A change is made even if its client does not wait for the reply; other clients are served."""
    gone, other = await listening.connected(), await listening.connected()
    gate = await listening.hold(gone)
    gone.close()
    await settle()
    gate.set()
    assert await other.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))
    await until(lambda: listening.connections.open == 1)


async def test_idle_connection_stays_open(listening: Listening) -> None:
    """A connection without requests stays open while others come and go."""
    idle = await listening.connected()
    for _ in range(5):
        client = listening.client()
        assert await client.ask(NOOP) == (0, b"")
        client.close()
    await until(lambda: listening.connections.open == 1)
    assert await idle.ask(NOOP) == (0, b"")


# The daemon ends


async def test_finish_answers_requests_that_were_sent(listening: Listening) -> None:
    """At the end, sent requests are answered; then connections close, and clients that write get EPIPE."""
    idle, busy = await listening.connected(), await listening.connected()
    await busy.send(INITIALIZE + GET_PRINCIPAL + NOOP)
    # The server has read nothing of that: the event loop has not run since.
    finishing = asyncio.create_task(listening.connections.finish(LIMIT))
    assert [await busy.reply() for _ in range(3)] == [(0, b""), (0, principal_bytes(ALICE)), (0, b"")]
    assert await busy.is_closed()
    assert await idle.is_closed()
    assert await finishing == 0
    for client in (idle, busy):
        with pytest.raises(BrokenPipeError):
            await client.send(NOOP)


async def test_finish_waits_for_the_disk(listening: Listening) -> None:
    """Requests that wait for the disk at the end are answered; their client cannot write meanwhile."""
    client = await listening.connected()
    gate = await listening.hold(client, INITIALIZE + GET_PRINCIPAL)
    finishing = asyncio.create_task(listening.connections.finish(LIMIT))
    await settle()
    with pytest.raises(BrokenPipeError):
        await client.send(NOOP)
    assert not finishing.done()
    gate.set()
    assert [await client.reply() for _ in range(2)] == [(0, b""), (0, principal_bytes(ALICE))]
    assert await client.is_closed()
    assert await finishing == 0


async def test_finish_cuts_off_a_client_that_does_not_read(listening: Listening) -> None:
    """A client that does not take its replies does not delay the end: it is cut off and counted."""
    lazy, good = await listening.connected(), await listening.connected()
    await lazy.fill(50)
    await lazy.send(GET_CRED_LIST * 20)
    await until(lambda: any(each.state is State.SENDING for each in listening.made))
    assert await good.ask(NOOP) == (0, b"")
    assert await listening.connections.finish(0.01) == 1
    assert await good.is_closed()
    await until(lambda: not listening.connections.open)


async def test_finish_without_descriptors(listening: Listening) -> None:
    """All connections end even if the process has no descriptor left."""
    clients = [await listening.connected() for _ in range(3)]
    with no_descriptor_left():
        assert await listening.connections.finish(LIMIT) == 0
    for client in clients:
        assert await client.is_closed()


async def test_finish_without_connections_is_immediate(listening: Listening) -> None:
    """Without connections the end does not wait."""
    async with asyncio.timeout(LIMIT):
        assert await listening.connections.finish(1e6) == 0


async def test_connection_accepted_at_the_end_is_answered(listening: Listening) -> None:
    """A connection that the event loop accepts only at the end is answered and ended like the others."""
    first, second = await listening.connected(), listening.client()
    await second.send(NOOP)
    finishing = asyncio.create_task(listening.connections.finish(LIMIT))
    assert await second.reply() == (0, b"")
    assert await second.is_closed()
    assert await first.is_closed()
    assert await finishing == 0
