"""Requests: served in order for each UID, durable before the reply; one that fails affects no other."""

import asyncio
import errno
import logging
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec.structs import replace

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.server import operations
from pykcm.server.context import Context
from pykcm.server.operations import OPERATIONS
from pykcm.store.interface import Pause, StoreError
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    changed,
    credential_bytes,
    data,
    peer,
    principal_bytes,
    refused,
)
from tests.ccaches.contents import contents
from tests.server.asking import Asking, Server, frame, unpack
from tests.server.waiting import settle, until
from tests.storing import EMBEDDED_STORES

TICKET = credential_bytes(TGS)
HTTP_TICKET = credential_bytes(HTTP)


def initialize(uid: int, suffix: bytes = b"", principal: Principal = ALICE) -> tuple[int, int, bytes]:
    return uid, Opcode.INITIALIZE, b"%d%s\0" % (uid, suffix) + principal_bytes(principal)


def store_ticket(uid: int, ticket: bytes = TICKET) -> tuple[int, int, bytes]:
    return uid, Opcode.STORE, b"%d\0" % uid + ticket


# One transaction for one iteration of the event loop


def test_changes_of_several_uids_share_a_commit(server: Server) -> None:
    """Changes of different UIDs in one iteration of the event loop are one commit."""
    uids = [1000, 2000, 3000]
    server.answers([(uid, Opcode.GET_DEFAULT_CACHE, b"") for uid in uids])
    replies = server.answers([initialize(uid) for uid in uids])
    assert replies == [(0, b"")] * 3
    assert len(server.store.commits) == 1


def test_requests_of_one_uid_are_served_in_order(server: Server) -> None:
    """Requests of one UID that come together are served in order, each on the result of the one before."""
    name = b"1000\0"
    replies = server.answers(
        [
            initialize(1000),
            store_ticket(1000),
            (1000, Opcode.GET_CRED_LIST, name),
            initialize(1000, principal=BOB),
            (1000, Opcode.GET_CRED_LIST, name),
            (1000, Opcode.DESTROY, name),
            (1000, Opcode.GET_PRINCIPAL, name),
            initialize(1000),
        ]
    )
    assert replies == [
        (0, b""),
        (0, b""),
        (0, b"\0\0\0\1" + data(TICKET)),
        (0, b""),
        (0, b"\0\0\0\0"),
        (0, b""),
        (Code.FCC_NOFILE, b""),
        (0, b""),
    ]


def test_change_is_not_seen_before_it_is_durable(server: Server, alice: Asking, bob: Asking) -> None:
    """A reply is sent, and a change is seen by others, only when the change is in the store."""
    alice.initialize(b"1000", ALICE)
    server.store.commits.clear()
    server.store.gate = asyncio.Event()
    storing = server.begin(*store_ticket(1000))
    server.runner.run(until(lambda: server.store.commits))
    reading = server.begin(1000, Opcode.GET_CRED_LIST, b"1000\0")
    assert bob.get_cache_uuid_list() == []
    server.runner.run(settle())
    assert not storing.done()
    assert not reading.done()
    server.store.gate.set()
    server.runner.run(until(reading.done))
    assert storing.result() == (0, b"")
    assert reading.result() == (0, b"\0\0\0\1" + data(TICKET))


def test_operations_on_two_collections_do_not_deadlock(server: Server, root: Asking, alice: Asking) -> None:
    """Operations on two collections wait for both queues, and not for each other for ever."""
    for uid in (1000, 2000):
        root.initialize(b"%d" % uid, ALICE)
    move = [b"1000\0" + b"2000:x\0", b"2000:x\0" + b"1000\0"]
    requests = [(0, Opcode.MOVE_CACHE, names) for names in move * 5]
    requests += [(1000, Opcode.GET_CACHE_UUID_LIST, b""), (2000, Opcode.GET_CACHE_UUID_LIST, b"")]
    replies = server.answers(requests)
    assert [code for code, _ in replies] == [0] * 12
    assert alice.get_principal(b"1000") == ALICE
    assert not server.engine.uid_queues.occupied


# A commit that fails


@pytest.fixture
def failing(server: Server, alice: Asking) -> Server:
    """UID 1000 has the ccache `1000` of one ticket; from now on the disk is full."""
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", TICKET)
    alice.set_kdc_offset(b"1000", 3)
    server.store.refusal = lambda _: StoreError("the disk is full", errno.ENOSPC)
    return server


CHANGES = [
    (Opcode.INITIALIZE, b"1000\0" + principal_bytes(BOB)),
    (Opcode.INITIALIZE, b"1000:new\0" + principal_bytes(BOB)),
    (Opcode.STORE, b"1000\0" + HTTP_TICKET),
    (Opcode.STORE, b"1000\0" + credential_bytes(TGS, ticket=b"renewed")),
    (Opcode.REMOVE_CRED, b"1000\0" + bytes(4) + bytes(4) + bytes(21)),
    (Opcode.DESTROY, b"1000\0"),
    (Opcode.MOVE_CACHE, b"1000\0" + b"1000:new\0"),
    (Opcode.SET_DEFAULT_CACHE, b"1000:new\0"),
    (Opcode.SET_KDC_OFFSET, b"1000\0" + bytes(4)),
    (Opcode.REPLACE, b"1000\0" + bytes(4) + principal_bytes(BOB) + b"\0\0\0\1" + data(HTTP_TICKET)),
]


@pytest.mark.parametrize(("opcode", "arguments"), CHANGES)
def test_failed_commit_changes_nothing(failing: Server, alice: Asking, opcode: int, arguments: bytes) -> None:
    """The operation answers the store's error; memory and store are as they were before."""
    before = contents(failing.runner.run(failing.collection_cache.get(1000)))
    assert alice.answer(opcode, arguments) == (errno.ENOSPC, b"")
    assert alice.get_cred_list(b"1000") == [TICKET]
    assert alice.get_kdc_offset(b"1000") == 3
    assert alice.get_default_cache() == b"1000"
    assert contents(failing.runner.run(failing.collection_cache.get(1000))) == before
    # When the disk has room again, the same request succeeds.
    failing.store.refusal = lambda _: None
    assert alice.answer(opcode, arguments) == (0, b"")
    again = failing.restarted()
    assert contents(again.runner.run(again.collection_cache.get(1000))) == contents(
        failing.runner.run(failing.collection_cache.get(1000))
    )


def test_requests_behind_a_failed_commit_see_stored_data(failing: Server) -> None:
    """A request that waited for one whose commit failed works on the stored data."""
    replies = failing.answers(
        [
            (1000, Opcode.DESTROY, b"1000\0"),
            (1000, Opcode.GET_CRED_LIST, b"1000\0"),
            (1000, Opcode.STORE, b"1000\0" + HTTP_TICKET),
            (1000, Opcode.GET_CRED_LIST, b"1000\0"),
        ]
    )
    unchanged = (0, b"\0\0\0\1" + data(TICKET))
    assert replies == [(errno.ENOSPC, b""), unchanged, (errno.ENOSPC, b""), unchanged]


def test_refused_change_of_one_uid_affects_no_other(server: Server) -> None:
    """If one UID's change is refused, other UIDs' changes of the same iteration are made."""
    server.store.refusal = lambda changes: (
        StoreError("no", errno.EIO) if any("/1000/" in change.container for change in changes) else None
    )
    replies = server.answers([initialize(uid) for uid in (500, 1000, 2000)])
    assert [code for code, _ in replies] == [0, errno.EIO, 0]
    again = server.restarted()
    assert [len(again.ask_as(uid).get_cache_uuid_list()) for uid in (500, 1000, 2000)] == [1, 0, 1]


def test_failed_move_changes_neither_user(server: Server, root: Asking) -> None:
    """A MOVE_CACHE between two users that cannot be stored changes neither collection."""
    root.initialize(b"1000", ALICE)
    root.initialize(b"2000", BOB)
    server.store.refusal = lambda _: StoreError("no", errno.EIO)
    with refused(errno.EIO):
        root.move_cache(b"1000", b"2000")
    assert root.get_principal(b"1000") == ALICE
    assert root.get_principal(b"2000") == BOB


@EMBEDDED_STORES
@pytest.mark.parametrize(
    "error", [StoreError("full", errno.ENOSPC), StoreError("damaged"), ZeroDivisionError()], ids=repr
)
def test_no_error_makes_mits_client_fall_back(failing: Server, alice: Asking, error: Exception) -> None:
    """No failure has a code that MIT's client takes for "this server lacks the operation"."""
    failing.store.refusal = lambda _: error
    for opcode, arguments in CHANGES:
        code, _ = alice.answer(opcode, arguments)
        assert code == (error.code if isinstance(error, StoreError) else errno.EIO)


def test_request_is_served_once_the_store_can_be_read(
    server: Server, alice: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    """If the store cannot be read, its error is the answer; once it can be, requests are served."""
    alice.initialize(b"1000", ALICE)
    again = server.restarted()
    read = again.store.load

    async def failing(uid: int, pause: Pause) -> None:
        raise StoreError("damaged", errno.EIO)

    again.store.load = failing  # type: ignore[method-assign,assignment]
    with refused(errno.EIO):
        again.ask_as(1000).get_principal(b"1000")
    assert "damaged" in caplog.text
    again.store.load = read  # type: ignore[method-assign]
    assert again.ask_as(1000).get_principal(b"1000") == ALICE


# Errors in pykcm


@pytest.fixture
def with_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """NOOP raises an exception that is no KcmError; STORE raises it after its change."""

    def noop(context: Context) -> bytes:
        raise ZeroDivisionError

    def store(context: Context, *arguments: object) -> bytes:
        operations.store(context, *arguments)  # type: ignore[arg-type]
        raise ZeroDivisionError

    for opcode, function in [(Opcode.NOOP, noop), (Opcode.STORE, store)]:
        monkeypatch.setitem(OPERATIONS, opcode, replace(OPERATIONS[opcode], run=function))


@pytest.mark.usefixtures("with_a_bug")
def test_error_in_pykcm_is_answered_and_logged(
    server: Server, alice: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that is no KcmError is answered as EIO, and logged with its traceback."""
    assert alice.answer(Opcode.NOOP) == (errno.EIO, b"")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.__dict__["KCM_OP"] == "NOOP"
    alice.initialize(b"1000", ALICE)


@pytest.mark.usefixtures("with_a_bug")
def test_error_in_pykcm_after_a_change_undoes_it(
    server: Server, alice: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    """A change made before the operation failed is neither in memory nor in the store."""
    alice.initialize(b"1000", ALICE)
    server.store.commits.clear()
    assert alice.answer(*store_ticket(1000)[1:]) == (errno.EIO, b"")
    assert alice.get_cred_list(b"1000") == []
    assert server.store.commits == []
    assert not server.engine.uid_queues.occupied
    assert "session key" not in caplog.text


# Memory


MIB = 1 << 20


@pytest.mark.parametrize(
    "fields",
    [
        lambda long: {"client": changed(ALICE, realm=long)},
        lambda long: {"server": changed(ALICE, components=(long,))},
        lambda long: {"authdata": [(1, long)]},
        lambda long: {"second_ticket": long},
        lambda long: {"ticket": long},
    ],
    ids=["client", "server", "authdata", "second ticket", "ticket"],
)
def test_refused_requests_leave_nothing_in_memory(
    alice: Asking, fields: Callable[[bytes], dict[str, Any]]
) -> None:
    """Refused requests leave nothing in memory, however long their parts are."""
    tracemalloc.start()
    try:
        for number in range(10):
            blob = credential_bytes(**fields(b"%d" % number + bytes(MIB)))
            answer = alice.answer(Opcode.STORE, b"1000\0" + blob)
            # Principals have a bound of their own.
            assert answer in {(Code.FCC_NOFILE, b""), (Code.CC_FORMAT, b"")}
        del blob
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < MIB


def test_waiting_request_is_in_memory_once(server: Server) -> None:
    """While a STORE waits for its UID's queue, only its credential is kept, not its message."""
    asked = frame(Opcode.STORE, b"1000\0" + credential_bytes(ticket=bytes(MIB)))
    references = sys.getrefcount(asked)
    waiting = server.dispatcher.answer(peer(1000), asked)
    assert isinstance(waiting, Coroutine)
    assert sys.getrefcount(asked) == references
    assert unpack(server.runner.run(waiting)) == (Code.FCC_NOFILE, b"")
