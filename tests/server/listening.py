"""A listening server in the test's event loop, and clients that send and receive any bytes."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, Self

from pykcm.ccaches import quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.peer.access import Access
from pykcm.peer.identity import Kernel
from pykcm.protocol.opcodes import Opcode
from pykcm.server.client_socket import ClientSocket, Parts
from pykcm.server.connections import NO_LIMITS, Connections, Limits, Member
from pykcm.server.deadlines import Deadlines
from pykcm.server.dispatcher import Dispatcher
from pykcm.server.fair_queue import FairQueue
from pykcm.server.reception import ClientReception
from pykcm.sockets.acceptor import AcceptRates, Listener
from pykcm.sockets.bound_socket import BoundSocket
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE, credential_of_size, principal_bytes, service
from tests.server.asking import ScriptedStore
from tests.server.waiting import LIMIT, settle, until

MAX_REQUEST = 1 << 20
UID = os.geteuid()
NAME = b"%d" % UID


# A whole reply: success without a payload.
OK = struct.pack(">IIi", 4, 0, 0)


def request(opcode: int, arguments: bytes = b"") -> bytes:
    return struct.pack(">IBBH", 4 + len(arguments), 2, 0, opcode) + arguments


NOOP = request(Opcode.NOOP)
INITIALIZE = request(Opcode.INITIALIZE, NAME + b"\0" + principal_bytes(ALICE))
GET_PRINCIPAL = request(Opcode.GET_PRINCIPAL, NAME + b"\0")
GET_CRED_LIST = request(Opcode.GET_CRED_LIST, NAME + b"\0")
UNKNOWN = request(999)


def store(number: int) -> bytes:
    """STORE of a credential of 4 KiB for the service of this number."""
    return request(Opcode.STORE, NAME + b"\0" + credential_of_size(4096, service(number)).blob)


def list_size(number: int) -> int:
    """The size of GET_CRED_LIST's payload for this number of credentials that `store` stored."""
    return 4 + number * (4 + 4096)


class Client:
    """The client's end of a connection."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.connect(str(path))
        self.loop = asyncio.get_running_loop()

    async def send(self, message: bytes) -> None:
        async with asyncio.timeout(LIMIT):
            await self.loop.sock_sendall(self.socket, message)

    async def receive(self, size: int) -> bytes:
        received = bytearray()
        async with asyncio.timeout(LIMIT):
            while len(received) < size:
                piece = await self.loop.sock_recv(self.socket, min(size - len(received), 1 << 18))
                assert piece, "the server closed the connection"
                received += piece
        return bytes(received)

    async def reply(self) -> tuple[int, bytes]:
        length, outer = struct.unpack(">II", await self.receive(8))
        assert outer == 0
        body = await self.receive(length)
        (code,) = struct.unpack_from(">i", body)
        return code, body[4:]

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        await self.send(message)
        return await self.reply()

    async def fill(self, number: int) -> None:
        """Create the ccache, and store this number of credentials of 4 KiB."""
        await self.send(INITIALIZE + b"".join(map(store, range(number))))
        assert await self.receive((1 + number) * len(OK)) == OK * (1 + number)

    async def is_closed(self) -> bool:
        """Wait until the server closes the connection; return whether it sent no more bytes before."""
        try:
            async with asyncio.timeout(LIMIT):
                return await self.loop.sock_recv(self.socket, 1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()


class NotedConnections(Connections):
    """Remembers every connection that was added, in their order."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(0, self._never_idle, limits)
        self.made: list[ClientSocket] = []

    def _never_idle(self) -> None:
        raise AssertionError("there is no idle time")

    def add(self, connection: Member) -> None:
        assert isinstance(connection, ClientSocket)
        self.made.append(connection)
        super().add(connection)


class Listening:
    """A listening server and its parts. An error that the event loop reports fails the test."""

    def __init__(
        self,
        path: Path,
        *,
        kernel: Kernel = Kernel(),  # noqa: B008 - it is frozen
        limits: Limits = NO_LIMITS,
        patience: float = LIMIT,
        clock: Callable[[], float] = perf_counter,
        rates: AcceptRates | None = None,
    ) -> None:
        self.path = path
        self.store = ScriptedStore(MemoryStore())
        self.engine = Engine(self.store, CollectionCache(self.store, quotas.NO_LIMITS))
        self.dispatcher = Dispatcher(self.engine, Access())
        self.connections = NotedConnections(limits)
        self.deadlines = Deadlines(patience)
        self.fair_queue = FairQueue(clock)
        self.kernel = kernel
        self.rates = rates or AcceptRates(100_000)
        self.clients: list[Client] = []
        self.complaints: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        parts = Parts(loop, self.dispatcher, self.connections, self.fair_queue, self.deadlines, MAX_REQUEST)
        self.bound = BoundSocket(self.path)
        reception = ClientReception(parts, self.kernel, self.rates)
        self.listener = Listener([(self.bound.socket, reception)])
        self.listener.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.store.gate is not None:
            self.store.gate.set()
        for client in self.clients:
            client.close()
        await self.listener.stop()
        self.bound.close()
        await until(lambda: not self.connections.open)
        await settle()
        assert self.complaints == []
        assert (self.connections.request_memory, self.connections.reply_memory) == (0, 0)
        assert len(self.deadlines) == 0
        assert len(self.dispatcher.sessions) == 0

    def client(self) -> Client:
        self.clients.append(Client(self.path))
        return self.clients[-1]

    async def connected(self) -> Client:
        """A client whose connection the server has accepted."""
        before = self.connections.open
        client = self.client()
        await until(lambda: self.connections.open > before)
        return client

    async def hold(self, client: Client, requests: bytes = INITIALIZE) -> asyncio.Event:
        """Send requests of which the first is a change; its commit waits for the event that is returned."""
        self.store.gate = asyncio.Event()
        before = len(self.store.commits)
        await client.send(requests)
        await until(lambda: len(self.store.commits) > before)
        return self.store.gate

    @property
    def made(self) -> list[ClientSocket]:
        """The server's ends of all connections, in the order of their acceptance."""
        return self.connections.made


class Listen(Protocol):
    """Starts a server; `options` are those of Listening."""

    async def __call__(self, **options: Any) -> Listening: ...
