"""Numbers of database statements, comparisons and calls that an operation needs."""

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, cast

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.credential import Credential
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Tag
from pykcm.server.client_socket import ClientSocket, Parts
from pykcm.server.connections import Connections
from pykcm.server.deadlines import Deadlines
from pykcm.server.fair_queue import FairQueue
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    credential_bytes,
    peer,
    principal_bytes,
    refused,
    service,
    tag_for,
    ticket,
)
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, Mcs
from tests.server.asking import Asking, Server
from tests.server.largest_costs import no_garbage_collection
from tests.server.listening import request

pytestmark = pytest.mark.parametrize("store", ["sqlcipher"], indirect=True)

NAME = b"1000"
MANY = 1000


class Statements:
    """The first words of the statements that the database has executed since `clear`."""

    def __init__(self, store: SQLCipherStore) -> None:
        self.said: list[str] = []
        store._db.set_trace_callback(lambda statement: self.said.append(statement.split()[0]))

    def clear(self) -> None:
        self.said.clear()


@pytest.fixture
def user(alice: Asking) -> Asking:
    """UID 1000, with a ccache of one ticket."""
    alice.initialize(NAME, ALICE)
    alice.store(NAME, credential_bytes(TGS))
    return alice


@pytest.fixture
def statements(store: SQLCipherStore, user: Asking) -> Statements:
    """The statements executed after `user` is set up."""
    return Statements(store)


def test_store_is_one_insert(user: Asking, statements: Statements) -> None:
    """A STORE is one transaction of one statement, in a ccache of one credential and in one of many."""
    for number in range(3):
        statements.clear()
        user.store(NAME, credential_bytes(service(number)))
        assert statements.said == ["BEGIN", "INSERT", "COMMIT"]
    user.replace(NAME, 0, ALICE, [credential_bytes(service(number)) for number in range(MANY)])
    statements.clear()
    user.store(NAME, credential_bytes(HTTP))
    assert statements.said == ["BEGIN", "INSERT", "COMMIT"]


def test_store_needs_no_begin_while_the_disk_is_fast(
    user: Asking, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the statement is a transaction by itself."""
    monkeypatch.setattr("pykcm.store.sqlcipher.writer._FAST", 3600.0)
    for number in range(16):
        user.store(NAME, credential_bytes(service(number)))
    statements.clear()
    user.store(NAME, credential_bytes(HTTP))
    assert statements.said == ["INSERT"]
    # A ccache's own secret is counted, and may be new.
    statements.clear()
    user.initialize(b"1000:new", ALICE)
    assert (statements.said[0], statements.said[-1]) == ("BEGIN", "COMMIT")


def test_stores_of_one_uid_share_a_commit(server: Server, statements: Statements) -> None:
    """STOREs over 16 connections into 16 ccaches of one UID are one transaction with one sync."""
    names = [b"1000:%d" % number for number in range(16)]
    for name in names:
        server.ask_as(1000).initialize(name, ALICE)
    statements.clear()
    committed = server.engine.committer.operations
    requests = [(1000, int(Opcode.STORE), name + b"\0" + credential_bytes(HTTP)) for name in names]
    assert server.answers(requests) == [(0, b"")] * 16
    assert statements.said.count("COMMIT") == 1
    assert server.engine.committer.operations == committed + 16
    again = server.restarted().ask_as(1000)
    assert all(again.get_cred_list(name) == [credential_bytes(HTTP)] for name in names)


def test_kinit_syncs_only_for_replies_that_promise_a_change(server: Server, statements: Statements) -> None:
    """Of kinit's requests those are committed that change something: a KDC offset of 0 is there already."""
    user = server.ask_as(1000)
    user.get_default_cache()
    name = user.gen_new()
    statements.clear()
    user.initialize(name, ALICE)
    user.set_kdc_offset(name, 0)
    user.store(name, credential_bytes(TGS))
    user.set_default_cache(name)
    user.set_default_cache(name)
    assert statements.said.count("COMMIT") == 3


def test_expiry_is_written_only_when_it_changes(user: Asking, statements: Statements) -> None:
    """Only a STORE that changes the ccache's expiry writes the ccache, in the same transaction."""
    user.replace(NAME, 0, ALICE, [ticket(TGS, ends=2000).blob])
    written = ["INSERT", "INSERT", "UPDATE"]
    for ends, expected in [(2001, written), (2001, ["INSERT"]), (1999, ["INSERT"])]:
        statements.clear()
        user.store(NAME, ticket(service(ends), ends=ends).blob)
        assert statements.said == ["BEGIN", *expected, "COMMIT"]


def test_replace_overwrites_without_deleting(user: Asking, statements: Statements) -> None:
    """REPLACE is two statements for the ccache and one for each credential, without a DELETE."""
    ten = [credential_bytes(service(number)) for number in range(10)]
    user.replace(NAME, 0, ALICE, ten)
    statements.clear()
    user.replace(NAME, 0, ALICE, ten)
    assert statements.said == ["BEGIN", "INSERT", "UPDATE", *["INSERT"] * 10, "COMMIT"]


@pytest.mark.parametrize("target", [b"1000:new", b"1000:there", b"2000"])
def test_move_cache_writes_no_credential(server: Server, statements: Statements, target: bytes) -> None:
    """MOVE_CACHE neither reads nor writes credentials, also if root moves to another UID."""
    root = server.ask_as(0)
    for name in (NAME, b"1000:there"):
        root.replace(name, 0, ALICE, [credential_bytes(service(number)) for number in range(100)])
    root.initialize(b"2000:other", ALICE)
    root.initialize(b"1000:other", ALICE)
    statements.clear()
    root.move_cache(NAME, target)
    assert len(statements.said) <= 12
    # The ccache, and the default, which moves along.
    assert statements.said.count("INSERT") <= 3
    # The container, and the ccache if the target exists.
    assert statements.said.count("UPDATE") == 1 + (target == b"1000:there")
    again = server.restarted().ask_as(0)
    assert len(again.get_cred_list(target)) == 100


def test_request_without_a_change_writes_nothing(user: Asking, statements: Statements) -> None:
    """Reading, and setting a value that is already set, does not touch the database."""
    user.get_principal(NAME)
    user.get_cred_list(NAME)
    user.retrieve(NAME, 0, tag_for(TGS))
    user.get_default_cache()
    user.set_kdc_offset(NAME, 0)
    user.set_default_cache(NAME)
    with refused(Code.CC_NOTFOUND):
        user.remove_cred(NAME, 0, tag_for(HTTP))
    assert statements.said == []


def test_changes_of_one_iteration_are_one_transaction(server: Server, statements: Statements) -> None:
    """Changes of sixteen UIDs in one iteration of the event loop are one transaction."""
    names = [(uid, b"%d\0" % uid) for uid in range(2000, 2016)]
    server.answers([(uid, Opcode.INITIALIZE, name + principal_bytes(ALICE)) for uid, name in names])
    statements.clear()
    server.answers([(uid, Opcode.STORE, name + credential_bytes(TGS)) for uid, name in names])
    assert statements.said.count("BEGIN") == 1
    assert statements.said.count("COMMIT") == 1


def test_collection_is_read_once(server: Server, user: Asking, statements: Statements) -> None:
    """The first request of a UID reads its collection; later ones read memory."""
    again = server.restarted().ask_as(1000)
    statements.clear()
    for _ in range(5):
        again.get_principal(NAME)
        again.get_cred_list(NAME)
    assert statements.said == ["SELECT"]


def test_lookup_compares_one_credential_of_many(user: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """RETRIEVE and REMOVE_CRED compare one credential of many, and STORE compares none."""
    user.replace(NAME, 0, ALICE, [credential_bytes(service(number)) for number in range(MANY)])
    compared: list[Credential] = []
    matches = Tag.matches

    def counting(tag: Tag, credential: Credential, match_flags: int) -> bool:
        compared.append(credential)
        return matches(tag, credential, match_flags)

    monkeypatch.setattr(Tag, "matches", counting)
    user.retrieve(NAME, 0, tag_for(service(MANY // 2)))
    assert len(compared) == 1
    user.remove_cred(NAME, 0, tag_for(service(MANY // 2)))
    assert len(compared) == 2
    user.store(NAME, credential_bytes(service(MANY // 2)))
    assert len(compared) == 2


class OneClient:
    """A client socket of UID 1000, whose event loop is the test."""

    def __init__(self, server: Server) -> None:
        self.client, own = socket.socketpair()
        own.setblocking(False)
        self.added = 0
        self.connections = Connections(0, lambda: None)
        # Its clock stands still: no request has to wait.
        fair_queue = FairQueue(lambda: 0.0)
        parts = Parts(
            *(cast("asyncio.AbstractEventLoop", self), server.dispatcher, self.connections, fair_queue),
            *(Deadlines(30.0), 1 << 20),
        )
        self.socket = ClientSocket(parts, own, peer(1000))
        self.connections.add(self.socket)
        self.socket.begin()

    def add_reader(self, fd: int, reader: Callable[[], object]) -> None:
        self.added += 1
        self.read = reader

    def remove_reader(self, fd: int) -> None:
        pass

    def calls_for(self, opcode: int, arguments: bytes = b"") -> int:
        """The number of calls of Python functions for one request, which must succeed."""
        self.client.sendall(request(opcode, arguments))
        calls = 0

        def count(frame: FrameType, event: str, _: object) -> None:
            nonlocal calls
            calls += event == "call"

        with no_garbage_collection():
            sys.setprofile(count)
            try:
                self.read()
            finally:
                sys.setprofile(None)
        assert self.client.recv(1 << 16)[8:12] == bytes(4)
        return calls

    def close(self) -> None:
        self.socket.abort()
        self.client.close()


@pytest.fixture
def one_client(server: Server, user: Asking) -> Iterator[OneClient]:
    client = OneClient(server)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("opcode", "arguments", "most"),
    [
        (Opcode.NOOP, b"", 24),
        (Opcode.GET_PRINCIPAL, NAME + b"\0", 30),
        (Opcode.GET_CRED_LIST, NAME + b"\0", 32),
        (Opcode.GET_DEFAULT_CACHE, b"", 56),
        (Opcode.RETRIEVE, NAME + b"\0\0\0\0\1" + tag_for(TGS).pack(), 50),
    ],
    ids=["NOOP", "GET_PRINCIPAL", "GET_CRED_LIST", "GET_DEFAULT_CACHE", "RETRIEVE"],
)
def test_cached_request_is_few_calls(one_client: OneClient, opcode: int, arguments: bytes, most: int) -> None:
    """A request that is answered from memory is few function calls, and watches no descriptor again."""
    one_client.calls_for(opcode, arguments)
    assert one_client.calls_for(opcode, arguments) <= most
    assert one_client.added == 1


def test_default_of_a_labelled_peer_is_read_from_memory(
    runner: asyncio.Runner, store: SQLCipherStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GET_DEFAULT_CACHE of a peer with a label enters the queue of changes only if it changes the default."""
    server = Server(runner, store, policy=Mcs())
    changed_uids: list[Sequence[int]] = []
    change = server.engine.change

    async def noted(uids: Sequence[int], *arguments: Any, **options: Any) -> Any:
        changed_uids.append(uids)
        return await change(uids, *arguments, **options)

    monkeypatch.setattr(server.engine, "change", noted)
    one, two = server.ask_as(1000, CONTAINER_1), server.ask_as(1000, CONTAINER_2)
    one.initialize(NAME, ALICE)
    changed_uids.clear()
    assert one.get_default_cache() == NAME
    assert changed_uids == []
    # The shared default is hidden from it: it gets an unused name, which is kept.
    name = two.get_default_cache()
    assert changed_uids == [(1000,)]
    assert two.get_default_cache() == name != NAME
    assert changed_uids == [(1000,)]
