"""Connections over real sockets, on both event loops: order, pieces, ends, and clients that misbehave."""

import asyncio
import socket
import struct

import pytest

from pykcm.peer.identity import Kernel, Peer, PeerRefusedError
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.server.connection import State
from tests.builders import ALICE, credential_of_size, data, principal_bytes, service
from tests.server.descriptors import no_descriptor_left
from tests.server.listening import (
    GET_CRED_LIST,
    GET_PRINCIPAL,
    INITIALIZE,
    MAX_REQUEST,
    NAME,
    NOOP,
    UID,
    UNKNOWN,
    Client,
    Listen,
    Listening,
    request,
    store,
)
from tests.server.waiting import LIMIT, settle, until

# Requests and replies


async def test_one_after_the_other(listening: Listening) -> None:
    """Requests on one connection are answered, refused ones too, and it stays open."""
    client = listening.client()
    assert await client.ask(NOOP) == (0, b"")
    assert await client.ask(GET_PRINCIPAL) == (Code.FCC_NOFILE, b"")
    assert await client.ask(INITIALIZE) == (0, b"")
    assert await client.ask(UNKNOWN) == (Code.FCC_INTERNAL, b"")
    assert await client.ask(request(Opcode.STORE, b"no name")) == (Code.CC_FORMAT, b"")
    assert await client.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))


async def test_pipelined_requests(listening: Listening) -> None:
    """Requests sent at once are answered in their order, whether or not they wait for the store."""
    client = listening.client()
    numbers = range(20)
    await client.send(NOOP + INITIALIZE + b"".join(store(n) + UNKNOWN for n in numbers) + GET_CRED_LIST)
    replies = [await client.reply() for _ in range(2 + 2 * len(numbers))]
    assert replies == [(0, b"")] * 2 + [(0, b""), (Code.FCC_INTERNAL, b"")] * len(numbers)
    stored = b"".join(data(credential_of_size(4096, service(n)).blob) for n in numbers)
    assert await client.reply() == (0, struct.pack(">I", len(numbers)) + stored)


async def test_many_at_once(listening: Listening) -> None:
    """Thousands of requests in one piece are answered, and not one within the other."""
    client = listening.client()
    await client.send(NOOP * 5000)
    assert await client.receive(12 * 5000) == struct.pack(">IIi", 4, 0, 0) * 5000


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-waiting"])
async def test_a_request_that_ends_without_reply_ends_its_connection(
    listening: Listening, error: BaseException, *, waits: bool
) -> None:
    """A client whose request is broken off by whatever exception is not left waiting, and delays nobody."""
    waiting = listening.client()
    if waits:
        listening.store.load_gate = asyncio.Event()
    listening.store.load_error = error
    await waiting.send(GET_PRINCIPAL)
    await until(lambda: listening.store.loads)
    if listening.store.load_gate is not None:
        listening.store.load_gate.set()
    assert await waiting.is_closed()
    listening.store.load_error = None
    assert await listening.client().ask(INITIALIZE) == (0, b"")
    [complaint] = listening.complaints
    assert complaint["exception"] is error
    listening.complaints.clear()


async def test_pieces(listening: Listening) -> None:
    """A request may come byte by byte, and the end of one with the begin of the next."""
    client = await listening.connected()
    for byte in INITIALIZE + GET_PRINCIPAL:
        await client.send(bytes([byte]))
        await settle()
    assert await client.reply() == (0, b"")
    assert await client.reply() == (0, principal_bytes(ALICE))
    await client.send(NOOP + GET_PRINCIPAL[:3])
    assert await client.reply() == (0, b"")
    await client.send(GET_PRINCIPAL[3:] + NOOP[:6])
    assert await client.reply() == (0, principal_bytes(ALICE))
    await client.send(NOOP[6:])
    assert await client.reply() == (0, b"")


async def test_longest_request(listening: Listening) -> None:
    """A request may be exactly as long as the limit."""
    client = listening.client()
    assert await client.ask(request(Opcode.NOOP, bytes(MAX_REQUEST - 4))) == (0, b"")


async def test_clients_beside_each_other(listening: Listening) -> None:
    """Clients' changes that come together share commits, and each gets its own reply."""
    clients = [await listening.connected() for _ in range(10)]
    names = [b"%s:%d\0" % (NAME, number) for number in range(10)]
    for client, name in zip(clients, names, strict=True):
        await client.send(request(Opcode.INITIALIZE, name + principal_bytes(ALICE)))
    assert [await client.reply() for client in clients] == [(0, b"")] * 10
    for client, name in zip(clients, names, strict=True):
        assert await client.ask(request(Opcode.GET_NAME, name)) == (0, name)


async def test_a_waiting_client_holds_nobody_up(listening: Listening) -> None:
    """While one client's change waits for the disk, others' readings of other things are answered."""
    waiting, other = await listening.connected(), await listening.connected()
    listening.store.gate = asyncio.Event()
    await waiting.send(INITIALIZE + NOOP)
    await until(lambda: listening.store.commits)
    assert await other.ask(NOOP) == (0, b"")
    await settle()
    with pytest.raises(BlockingIOError):
        waiting.socket.recv(1)
    listening.store.gate.set()
    assert [await waiting.reply(), await waiting.reply()] == [(0, b"")] * 2


# Ends


async def test_half_close(listening: Listening) -> None:
    """A client that ends its side after its requests still gets every reply, and then the end."""
    for requests, count in [(INITIALIZE + GET_PRINCIPAL, 2), (NOOP, 1), (b"", 0)]:
        client = listening.client()
        await client.send(requests)
        client.socket.shutdown(socket.SHUT_WR)
        for _ in range(count):
            code, _ = await client.reply()
            assert code == 0
        assert await client.is_closed()


async def test_half_close_while_waiting(listening: Listening) -> None:
    """A client that ends its side while its first request waits for the disk still gets every reply."""
    client = await listening.connected()
    listening.store.gate = asyncio.Event()
    await client.send(INITIALIZE + store(1) + GET_PRINCIPAL + store(2) + NOOP)
    await until(lambda: listening.store.commits)
    client.socket.shutdown(socket.SHUT_WR)
    await settle()
    listening.store.gate.set()
    replies = [await client.reply() for _ in range(5)]
    assert replies == [(0, b""), (0, b""), (0, principal_bytes(ALICE)), (0, b""), (0, b"")]
    assert await client.is_closed()


async def test_half_close_without_reading(listening: Listening) -> None:
    """A client that ends its side long before it reads its replies still gets them all."""
    client = listening.client()
    await client.send(INITIALIZE + b"".join(store(n) for n in range(50)))
    for _ in range(51):
        assert await client.reply() == (0, b"")
    await client.send(GET_CRED_LIST * 20)
    client.socket.shutdown(socket.SHUT_WR)
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    for _ in range(20):
        code, payload = await client.reply()
        assert (code, len(payload)) == (0, 4 + 50 * (4 + 4096))
    assert await client.is_closed()


async def test_half_close_in_the_middle_of_a_request(listening: Listening) -> None:
    """An end in the middle of a request closes the connection, after the replies to the whole ones."""
    client = listening.client()
    await client.send(INITIALIZE + GET_PRINCIPAL[:-1])
    client.socket.shutdown(socket.SHUT_WR)
    assert await client.reply() == (0, b"")
    assert await client.is_closed()


async def test_a_client_that_goes_away(listening: Listening) -> None:
    """What a client asked for is done though it does not wait for the reply; the others go on."""
    gone, other = await listening.connected(), await listening.connected()
    listening.store.gate = asyncio.Event()
    await gone.send(INITIALIZE)
    await until(lambda: listening.store.commits)
    gone.close()
    await settle()
    listening.store.gate.set()
    assert await other.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))
    await until(lambda: listening.connections.open == 1)


async def test_idle_connections_stay_open(listening: Listening) -> None:
    """A connection without requests stays open beside all that happens on others."""
    idle = await listening.connected()
    for _ in range(5):
        client = listening.client()
        assert await client.ask(NOOP) == (0, b"")
        client.close()
    await until(lambda: listening.connections.open == 1)
    assert await idle.ask(NOOP) == (0, b"")


# Clients that misbehave


@pytest.mark.parametrize(
    "broken",
    [
        b"\0\0\0\0",
        b"\0\0\0\3\2\0\0",
        struct.pack(">I", MAX_REQUEST + 1),
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.0\r\n\r\n",
        struct.pack(">IBBH", 4, 1, 0, 0),
        struct.pack(">IB", 4, 3),
    ],
    ids=["no length", "length 3", "too long", "longest", "another protocol", "version 1", "version 3"],
)
async def test_framing_errors(listening: Listening, broken: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be a request closes the connection, is logged once, and concerns no other connection."""
    bad, good = listening.client(), listening.client()
    assert await bad.ask(INITIALIZE) == (0, b"")
    await bad.send(broken)
    assert await bad.is_closed()
    assert await good.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))
    assert len(caplog.records) == 1
    assert str(UID) in caplog.text


async def test_framing_error_while_waiting(listening: Listening) -> None:
    """A framing error behind a request that waits for the disk closes the connection after its reply."""
    bad, good = await listening.connected(), await listening.connected()
    listening.store.gate = asyncio.Event()
    await bad.send(INITIALIZE)
    await until(lambda: listening.store.commits)
    await bad.send(b"\0\0\0\0")
    await settle()
    listening.store.gate.set()
    assert await bad.reply() == (0, b"")
    assert await bad.is_closed()
    assert await good.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))


async def test_requests_before_a_framing_error(listening: Listening) -> None:
    """Requests that come together with what is none are answered, and then the connection is closed."""
    client = listening.client()
    await client.send(INITIALIZE + GET_PRINCIPAL + b"\0\0\0\0" + NOOP)
    assert [await client.reply() for _ in range(2)] == [(0, b""), (0, principal_bytes(ALICE))]
    assert await client.is_closed()


async def test_a_client_that_does_not_read(listening: Listening) -> None:
    """From a client that does not take its replies nothing more is read; others go on; nothing gets lost."""
    lazy = await listening.connected()
    numbers = range(50)
    await lazy.send(INITIALIZE + b"".join(store(n) for n in numbers))
    for _ in range(1 + len(numbers)):
        assert await lazy.reply() == (0, b"")

    # Each reply has 200 KiB, and all requests more than sockets hold.
    count = 100_000
    sending = asyncio.create_task(lazy.send(GET_CRED_LIST * count))
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    held, owed = listening.connections.held, listening.connections.owed
    other = listening.client()
    for _ in range(20):
        assert await other.ask(NOOP) == (0, b"")
    assert not sending.done()
    assert (listening.connections.held, listening.connections.owed) == (held, owed)
    assert held <= 32 * 1024
    assert owed == 12 + 4 + 50 * (4 + 4096)

    for _ in range(30):
        code, payload = await lazy.reply()
        assert (code, len(payload)) == (0, 4 + 50 * (4 + 4096))
    sending.cancel()


async def test_a_client_that_floods(listening: Listening) -> None:
    """While a client's request waits, what it sends behind it stays in the kernel; all is answered."""
    flooding = await listening.connected()
    listening.store.gate = asyncio.Event()
    longer = request(Opcode.NOOP, bytes(992))
    sending = asyncio.create_task(flooding.send(INITIALIZE + longer * 5000))
    await until(lambda: listening.store.commits)
    await settle()
    assert not sending.done()
    assert listening.connections.held <= 32 * 1024
    listening.store.gate.set()
    reading = asyncio.create_task(flooding.receive(12 * 5001))
    await sending
    assert await reading == struct.pack(">IIi", 4, 0, 0) * 5001


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
async def test_peer_that_cannot_be_identified_is_refused(
    listen: Listen, early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection is closed, whatever it has sent; many of them are one line in the log."""
    listening = await listen(kernel=Kernel(overflow_uid=UID))
    for _ in range(3):
        client = listening.client()
        if early:
            client.socket.send(INITIALIZE + NOOP)
        assert await client.is_closed()
    assert listening.store.commits == []
    assert not listening.connections.open
    (line,) = caplog.records
    assert f"connection refused: UID {UID} " in line.getMessage()
    assert line.__dict__["KCM_UID"] == UID


async def test_refused_peers_of_several_uids(
    listening: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One UID's refused connections do not hide another's: there is a line for each UID as it is seen."""
    uids = iter([1000, 1000, 2000, 1000, 2000])

    def refuse(sock: socket.socket, kernel: Kernel) -> Peer:
        raise PeerRefusedError("no label", next(uids))

    monkeypatch.setattr("pykcm.server.reception.identify", refuse)
    for _ in range(5):
        assert await listening.client().is_closed()
    assert [line.__dict__["KCM_UID"] for line in caplog.records] == [1000, 2000]


# The daemon's end


async def still_writable(client: Client) -> bool:
    """Whether a write of the client still reaches somebody."""
    try:
        await client.send(NOOP)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


async def test_finish(listening: Listening) -> None:
    """At the end what was sent is answered, the connection closes, and the client's next write is EPIPE."""
    idle, busy = await listening.connected(), await listening.connected()
    await busy.send(INITIALIZE + GET_PRINCIPAL + NOOP)
    # Nothing of that has been read yet: the loop has not turned since.
    finishing = asyncio.create_task(listening.connections.finish(LIMIT))
    assert [await busy.reply() for _ in range(3)] == [(0, b""), (0, principal_bytes(ALICE)), (0, b"")]
    assert await busy.is_closed()
    assert await idle.is_closed()
    assert await finishing == 0
    for client in (idle, busy):
        with pytest.raises(BrokenPipeError):
            await client.send(NOOP)


async def test_finish_while_waiting(listening: Listening) -> None:
    """What waits for the disk at the end is answered, too; no write is taken from its client meanwhile."""
    client = await listening.connected()
    listening.store.gate = asyncio.Event()
    await client.send(INITIALIZE + GET_PRINCIPAL)
    await until(lambda: listening.store.commits)
    finishing = asyncio.create_task(listening.connections.finish(LIMIT))
    await settle()
    with pytest.raises(BrokenPipeError):
        await client.send(NOOP)
    assert not finishing.done()
    listening.store.gate.set()
    assert [await client.reply() for _ in range(2)] == [(0, b""), (0, principal_bytes(ALICE))]
    assert await client.is_closed()
    assert await finishing == 0


async def test_finish_cuts_off_who_does_not_read(listening: Listening) -> None:
    """A client that does not take its replies does not hold up the end: it is cut off, and counted."""
    lazy, good = await listening.connected(), await listening.connected()
    await lazy.send(INITIALIZE + b"".join(store(n) for n in range(50)))
    for _ in range(51):
        await lazy.reply()
    await lazy.send(GET_CRED_LIST * 20)
    await until(lambda: any(each.state is State.SENDING for each in listening.made))
    assert await good.ask(NOOP) == (0, b"")
    assert await listening.connections.finish(0.01) == 1
    assert await good.is_closed()
    await until(lambda: not listening.connections.open)


async def test_finish_without_descriptors(listening: Listening) -> None:
    """Where the process has no descriptor left, all connections end all the same."""
    clients = [await listening.connected() for _ in range(3)]
    with no_descriptor_left():
        assert await listening.connections.finish(LIMIT) == 0
    for client in clients:
        assert await client.is_closed()


async def test_finish_without_connections(listening: Listening) -> None:
    """Without connections the end is there at once."""
    async with asyncio.timeout(LIMIT):
        assert await listening.connections.finish(1e6) == 0


async def test_connected_at_the_end(listening: Listening) -> None:
    """A connection that the loop learns of only at the end is answered and ended like the others."""
    first, second = await listening.connected(), listening.client()
    await second.send(NOOP)
    finishing = asyncio.create_task(listening.connections.finish(LIMIT))
    assert await second.reply() == (0, b"")
    assert await second.is_closed()
    assert await first.is_closed()
    assert await finishing == 0
