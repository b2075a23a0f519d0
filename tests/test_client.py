"""KcmClient with a real server on a real socket: each method, and errors."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pykcm.ccaches.quotas import NO_LIMITS
from pykcm.client import KcmClient
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.peer.access import Access
from pykcm.peer.identity import Kernel
from pykcm.protocol.codes import Code
from pykcm.protocol.framing import MAX_REPLY_SIZE
from pykcm.protocol.messages import ARGUMENTS
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Match, Tag
from pykcm.server.client_socket import Parts
from pykcm.server.connections import Connections
from pykcm.server.deadlines import Deadlines
from pykcm.server.dispatcher import Dispatcher
from pykcm.server.fair_queue import FairQueue
from pykcm.server.reception import ClientReception
from pykcm.sockets.acceptor import AcceptRates, Listener
from pykcm.sockets.bound_socket import BoundSocket
from pykcm.store.memory import MemoryStore
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    changed,
    credential_bytes,
    credential_of_size,
    refused,
    tag_for,
)
from tests.full_queue import connect_to_full_queue, full_queue

TICKET, HTTP_TICKET = credential_bytes(TGS), credential_bytes(HTTP)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The socket of a server in a thread of its own."""
    path = tmp_path / "kcm.sock"
    serving = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        store = MemoryStore()
        dispatcher = Dispatcher(Engine(store, CollectionCache(store, NO_LIMITS)), Access())
        connections = Connections(0, lambda: None)
        stopped = asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        parts = Parts(loop, dispatcher, connections, FairQueue(), Deadlines(20), 16 << 20)
        bound = BoundSocket(path)
        listener = Listener([(bound.socket, ClientReception(parts, Kernel(), AcceptRates(256)))])
        listener.begin()
        serving.set()
        await stopped.wait()
        await listener.stop()
        bound.close()
        await connections.finish(20)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert serving.wait(60)
    yield path
    stop[0]()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def kcm(path: Path) -> Iterator[KcmClient]:
    """A client of the server."""
    with KcmClient(path) as client:
        yield client


def test_every_operation_has_a_method() -> None:
    """Each operation of the server is a method with the name of its opcode."""
    assert all(callable(getattr(KcmClient, Opcode(opcode).name.lower())) for opcode in ARGUMENTS)


def test_methods_send_requests_and_decode_replies(kcm: KcmClient) -> None:
    """Each method sends a valid request, and decodes the reply."""
    own = kcm.get_default_cache()
    kcm.noop()
    kcm.resolve(own)
    assert kcm.get_cache_uuid_list() == []

    kcm.initialize(own, ALICE)
    assert kcm.get_name(own) == own
    assert kcm.get_principal(own) == ALICE
    (ccache,) = kcm.get_cache_uuid_list()
    assert kcm.get_cache_by_uuid(ccache) == own

    kcm.store(own, TICKET)
    kcm.store(own, HTTP_TICKET)
    assert kcm.retrieve(own, Match.GC_CACHED, tag_for(HTTP)) == HTTP_TICKET
    uuids = kcm.get_cred_uuid_list(own)
    assert [kcm.get_cred_by_uuid(own, uuid) for uuid in uuids] == [TICKET, HTTP_TICKET]
    kcm.remove_cred(own, 0, tag_for(HTTP))
    assert kcm.get_cred_list(own) == [TICKET]

    kcm.set_flags(own, 0)
    assert kcm.get_kdc_offset(own) == 0
    kcm.set_kdc_offset(own, -5)
    assert kcm.get_kdc_offset(own) == -5

    other = kcm.gen_new()
    kcm.replace(other, 9, BOB, [TICKET, HTTP_TICKET])
    kcm.set_default_cache(other)
    assert kcm.get_default_cache() == other
    kcm.move_cache(other, own)
    assert kcm.get_default_cache() == own
    assert (kcm.get_principal(own), kcm.get_kdc_offset(own)) == (BOB, 9)
    assert kcm.get_cred_list(own) == [TICKET, HTTP_TICKET]

    kcm.destroy(own)
    assert kcm.get_cache_uuid_list() == []


@pytest.mark.parametrize(
    ("tag", "match_flags"),
    [
        (Tag(ALICE, HTTP), Match.GC_CACHED),
        (Tag(enctype=18, server=HTTP), Match.KEYTYPE),
        (Tag(server=HTTP, second_ticket=b"second"), Match.SECOND_TICKET),
        (Tag(server=HTTP, authdata=b"\0\0\0\1\0\7\0\0\0\1x"), Match.AUTHDATA),
        (Tag(server=HTTP, flags=0x40E10000), Match.FLAGS_EXACT),
        (Tag(server=changed(HTTP, realm=b"")), Match.SRV_NAMEONLY),
    ],
)
def test_fields_of_a_tag_reach_the_server(kcm: KcmClient, tag: Tag, match_flags: int) -> None:
    """The server gets each field of a tag unchanged."""
    own = kcm.get_default_cache()
    kcm.initialize(own, ALICE)
    wanted = credential_bytes(HTTP, second_ticket=b"second", authdata=[(7, b"x")])
    kcm.store(own, credential_bytes(TGS, enctype=17, flags=0))
    kcm.store(own, wanted)
    assert kcm.retrieve(own, match_flags, tag) == wanted


def test_errors_of_the_server_are_raised(kcm: KcmClient) -> None:
    """An error is raised with the server's code, and the connection remains usable."""
    with refused(Code.FCC_NOFILE):
        kcm.get_principal(kcm.get_default_cache())
    with refused(Code.CC_END):
        kcm.get_cache_by_uuid(bytes(16))
    with refused(Code.FCC_INTERNAL):
        kcm.call(999)
    kcm.noop()


def test_name_with_a_nul_is_refused(kcm: KcmClient) -> None:
    """A name that cannot be encoded is refused before anything is sent."""
    with refused(Code.CC_FORMAT):
        kcm.get_principal(b"1000\0x")
    kcm.noop()


def test_messages_larger_than_the_socket_buffer(kcm: KcmClient) -> None:
    """Requests and replies may be much larger than the socket's buffer."""
    own = kcm.get_default_cache()
    large = [credential_of_size(4 << 20, server).blob for server in (TGS, HTTP)]
    kcm.replace(own, 0, ALICE, large)
    assert kcm.get_cred_list(own) == large


def test_clients_share_ccaches(path: Path, kcm: KcmClient) -> None:
    """A client finds the ccache that another client of the UID has stored."""
    own = kcm.get_default_cache()
    kcm.initialize(own, ALICE)
    with KcmClient(str(path)) as other:
        assert other.get_principal(own) == ALICE
    assert kcm.get_principal(own) == ALICE


def test_missing_server_is_an_os_error(tmp_path: Path) -> None:
    """Without a socket, or with the socket of an ended server, OSError is raised."""
    path = tmp_path / "kcm.sock"
    with pytest.raises(FileNotFoundError):
        KcmClient(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(ConnectionRefusedError):
        KcmClient(path)


@contextmanager
def connected(folder: Path) -> Iterator[tuple[KcmClient, socket.socket]]:
    """Connect a client; yields it and the other end of its connection."""
    path = folder / "kcm.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with KcmClient(path, timeout=60) as client:
            accepted, _ = listener.accept()
            with accepted:
                yield client, accepted


@pytest.mark.parametrize(
    "answer", [b"", b"\0\0\0\4\0\0", b"\0\0\0\x08\0\0\0\0\0\0\0\0\0\0", b"\0\0\0\3\0\0\0\0\0\0\0"]
)
def test_incomplete_reply_is_a_connection_error(tmp_path: Path, answer: bytes) -> None:
    """A connection that ends before a complete reply, or a reply without a code, is a ConnectionError."""
    with connected(tmp_path) as (client, accepted):
        accepted.send(answer)
        accepted.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            client.noop()


def test_too_long_reply_is_refused(tmp_path: Path) -> None:
    """A reply above the maximum length is refused when its length is known."""
    with connected(tmp_path) as (client, accepted):
        accepted.sendall((MAX_REPLY_SIZE + 1).to_bytes(4) + bytes(100))
        with pytest.raises(ConnectionError, match=str(MAX_REPLY_SIZE + 1)):
            client.noop()


def test_reply_of_the_maximum_length_is_accepted(tmp_path: Path) -> None:
    """A reply of the maximum length is accepted."""
    with connected(tmp_path) as (client, accepted):
        reply = MAX_REPLY_SIZE.to_bytes(4) + bytes(4 + MAX_REPLY_SIZE)
        sending = threading.Thread(target=accepted.sendall, args=(reply,))
        sending.start()
        assert len(client.call(Opcode.NOOP)) == MAX_REPLY_SIZE - 4
        sending.join(60)


def test_silent_server_is_a_timeout(tmp_path: Path) -> None:
    """If the server does not reply in time, TimeoutError is raised."""
    path = tmp_path / "kcm.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with KcmClient(path, timeout=0.01) as client, pytest.raises(TimeoutError):
            client.noop()


def test_connecting_waits_while_the_queue_is_full(tmp_path: Path) -> None:
    """While the server's queue of connections is full, a client waits for a place in it."""
    path = tmp_path / "kcm.sock"
    with full_queue(path) as listening:
        connect_to_full_queue(listening, lambda: KcmClient(path)).close()
