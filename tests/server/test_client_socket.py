"""Requests over real sockets, on both event loops: order, pieces, bad frames, and peers that are refused."""

import asyncio
import struct

import pytest

from pykcm.peer.identity import Kernel, Peer, PeerRefusedError
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.server.connection import State
from tests.builders import ALICE, credential_of_size, data, principal_bytes, service
from tests.server.listening import (
    GET_CRED_LIST,
    GET_PRINCIPAL,
    INITIALIZE,
    MAX_REQUEST,
    NAME,
    NOOP,
    OK,
    UID,
    UNKNOWN,
    Listen,
    Listening,
    list_size,
    request,
    store,
)
from tests.server.waiting import settle, until

# Requests and replies


async def test_connection_stays_open_after_refused_requests(listening: Listening) -> None:
    """Requests on one connection are answered one after the other, refused ones too."""
    client = listening.client()
    assert await client.ask(NOOP) == (0, b"")
    assert await client.ask(GET_PRINCIPAL) == (Code.FCC_NOFILE, b"")
    assert await client.ask(INITIALIZE) == (0, b"")
    assert await client.ask(UNKNOWN) == (Code.FCC_INTERNAL, b"")
    assert await client.ask(request(Opcode.STORE, b"no name")) == (Code.CC_FORMAT, b"")
    assert await client.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))


async def test_pipelined_requests_are_answered_in_order(listening: Listening) -> None:
    """Requests sent at once are answered in their order, whether or not they wait for the store."""
    client = listening.client()
    numbers = range(20)
    await client.send(NOOP + INITIALIZE + b"".join(store(n) + UNKNOWN for n in numbers) + GET_CRED_LIST)
    replies = [await client.reply() for _ in range(2 + 2 * len(numbers))]
    assert replies == [(0, b"")] * 2 + [(0, b""), (Code.FCC_INTERNAL, b"")] * len(numbers)
    stored = b"".join(data(credential_of_size(4096, service(n)).blob) for n in numbers)
    assert await client.reply() == (0, struct.pack(">I", len(numbers)) + stored)


async def test_thousands_of_pipelined_requests_are_answered(listening: Listening) -> None:
    """Thousands of requests in one piece are answered without recursion."""
    client = listening.client()
    await client.send(NOOP * 5000)
    assert await client.receive(5000 * len(OK)) == OK * 5000


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-waiting"])
async def test_request_that_ends_without_a_reply_ends_its_connection(
    listening: Listening, error: BaseException, *, waits: bool
) -> None:
    """Whatever exception ends a request, its client is not left waiting, and others are served."""
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


async def test_requests_may_come_in_any_pieces(listening: Listening) -> None:
    """A request may come byte by byte, and the end of one request with the beginning of the next."""
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


async def test_longest_request_is_served(listening: Listening) -> None:
    """A request may be exactly as long as the limit."""
    assert await listening.client().ask(request(Opcode.NOOP, bytes(MAX_REQUEST - 4))) == (0, b"")


async def test_concurrent_clients_get_their_own_replies(listening: Listening) -> None:
    """Changes of several clients that come together are all made, and each client gets its own reply."""
    clients = [await listening.connected() for _ in range(10)]
    names = [b"%s:%d\0" % (NAME, number) for number in range(10)]
    for client, name in zip(clients, names, strict=True):
        await client.send(request(Opcode.INITIALIZE, name + principal_bytes(ALICE)))
    assert [await client.reply() for client in clients] == [(0, b"")] * 10
    for client, name in zip(clients, names, strict=True):
        assert await client.ask(request(Opcode.GET_NAME, name)) == (0, name)


async def test_waiting_change_delays_no_other_client(listening: Listening) -> None:
    """While one client's change waits for the disk, another client is answered."""
    waiting, other = await listening.connected(), await listening.connected()
    gate = await listening.hold(waiting, INITIALIZE + NOOP)
    assert await other.ask(NOOP) == (0, b"")
    await settle()
    with pytest.raises(BlockingIOError):
        waiting.socket.recv(1)
    gate.set()
    assert [await waiting.reply() for _ in range(2)] == [(0, b"")] * 2


async def test_requests_behind_a_waiting_one_keep_their_order(listening: Listening) -> None:
    """Requests that come one by one behind one that waits for the disk are answered after it, in order."""
    client = await listening.connected()
    gate = await listening.hold(client)
    for message in (NOOP, GET_PRINCIPAL):
        await client.send(message)
        await settle()
    with pytest.raises(BlockingIOError):
        client.socket.recv(1)
    gate.set()
    assert [await client.reply() for _ in range(2)] == [(0, b"")] * 2
    assert await client.reply() == (0, principal_bytes(ALICE))


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
async def test_framing_error_closes_its_connection_only(
    listening: Listening, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are no request close the connection and are logged once; other connections stay open."""
    bad, good = listening.client(), listening.client()
    assert await bad.ask(INITIALIZE) == (0, b"")
    await bad.send(broken)
    assert await bad.is_closed()
    assert await good.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))
    assert len(caplog.records) == 1
    assert str(UID) in caplog.text


async def test_framing_error_behind_a_waiting_request(listening: Listening) -> None:
    """A framing error behind a request that waits for the disk closes the connection after its reply."""
    bad, good = await listening.connected(), await listening.connected()
    gate = await listening.hold(bad)
    await bad.send(b"\0\0\0\0")
    await settle()
    gate.set()
    assert await bad.reply() == (0, b"")
    assert await bad.is_closed()
    assert await good.ask(GET_PRINCIPAL) == (0, principal_bytes(ALICE))


async def test_requests_before_a_framing_error_are_answered(listening: Listening) -> None:
    """Requests that come together with a bad frame are answered; then the connection is closed."""
    client = listening.client()
    await client.send(INITIALIZE + GET_PRINCIPAL + b"\0\0\0\0" + NOOP)
    assert [await client.reply() for _ in range(2)] == [(0, b""), (0, principal_bytes(ALICE))]
    assert await client.is_closed()


async def test_client_that_does_not_read_is_not_read(listening: Listening) -> None:
    """From a client that does not take its replies no more is read; others are served; nothing is lost."""
    lazy = await listening.connected()
    await lazy.fill(50)
    # Each reply has 200 KiB, and all requests more than sockets hold.
    sending = asyncio.create_task(lazy.send(GET_CRED_LIST * 100_000))
    await until(lambda: listening.made[0].state is State.SENDING)
    await settle()
    held, owed = listening.connections.request_memory, listening.connections.reply_memory
    other = listening.client()
    for _ in range(20):
        assert await other.ask(NOOP) == (0, b"")
    assert not sending.done()
    assert (listening.connections.request_memory, listening.connections.reply_memory) == (held, owed)
    assert held <= 32 * 1024
    assert owed == 12 + list_size(50)
    for _ in range(30):
        code, payload = await lazy.reply()
        assert (code, len(payload)) == (0, list_size(50))
    sending.cancel()


async def test_requests_behind_a_waiting_one_stay_in_the_kernel(listening: Listening) -> None:
    """While a client's request waits, its further requests stay in the kernel; all of them are answered."""
    flooding = await listening.connected()
    longer = request(Opcode.NOOP, bytes(992))
    listening.store.gate = asyncio.Event()
    sending = asyncio.create_task(flooding.send(INITIALIZE + longer * 5000))
    await until(lambda: listening.store.commits)
    await settle()
    assert not sending.done()
    assert listening.connections.request_memory <= 32 * 1024
    listening.store.gate.set()
    reading = asyncio.create_task(flooding.receive(5001 * len(OK)))
    await sending
    assert await reading == OK * 5001


# Peers that are refused


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
async def test_unidentified_peer_is_refused(
    listen: Listen, early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An unidentified peer's connection is closed, whatever it has sent; many are one line in the log."""
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


async def test_refused_peers_are_logged_for_each_uid(
    listening: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One UID's refused connections do not hide another UID's: each has a line."""
    uids = iter([1000, 1000, 2000, 1000, 2000])

    def refuse(*_: object) -> Peer:
        raise PeerRefusedError("no label", next(uids))

    monkeypatch.setattr("pykcm.server.reception.identify", refuse)
    for _ in range(5):
        assert await listening.client().is_closed()
    assert [line.__dict__["KCM_UID"] for line in caplog.records] == [1000, 2000]
