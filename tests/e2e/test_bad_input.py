"""Malformed input: each kind gets its documented answer, and other connections are not affected."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.principal import Principal

from .clients import Listed, MitClient
from .conftest import USER, public_folder, started, watched
from .daemon import Pykcmd, effective_uid
from .kdc import REALM
from .raw import RawConnection, request

CC_FORMAT = -1765328185
FCC_INTERNAL = -1765328188
CC_NOSUPP = -1765328137

NOOP, GET_NAME, INITIALIZE, STORE, RETRIEVE, GET_PRINCIPAL = 0, 1, 4, 6, 7, 8
GET_CRED_BY_UUID, REMOVE_CRED, MOVE_CACHE, GET_CACHE_BY_UUID = 10, 11, 17, 19
SET_DEFAULT_CACHE, SET_KDC_OFFSET, GET_CRED_LIST, REPLACE = 21, 23, 13001, 13002

NAME = b"%d:bytes\0" % USER
PRINCIPAL = Principal(1, REALM.encode(), (b"alice",)).pack()
ALICE = f"alice@{REALM}"
U32_MAX = b"\xff\xff\xff\xff"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for all of these tests, which share a daemon."""
    with public_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def pykcmd(folder: Path) -> Iterator[Pykcmd]:
    """One daemon, which must survive all of these tests."""
    with watched(Pykcmd(folder)) as daemon, started(daemon):
        yield daemon


@pytest.fixture
def connection(pykcmd: Pykcmd, mit: MitClient) -> Iterator[RawConnection]:
    """A connection of a user with a ccache; it and older connections must work afterwards."""
    mit.kinit("alice")
    with effective_uid(USER):
        bystander = KcmClient(pykcmd.socket_path)
    with bystander:
        bystander.noop()
        with RawConnection(pykcmd.socket_path, USER) as connection:
            yield connection
        assert bystander.get_principal(b"%d" % USER) == Principal(1, REALM.encode(), (b"alice",))
    listed = Listed(f"KCM:{USER}", ALICE, [f"krbtgt/{REALM}"])
    assert mit.klist() == listed
    assert mit.klist_all() == [listed]
    assert pykcmd.running


CLOSING = {
    "length 0": b"\0\0\0\0",
    "length 3": b"\0\0\0\3\2\0\0",
    "length of all ones": U32_MAX,
    "length over the maximum": b"\x7f\0\0\0\2\0\0\0",
    "major version 0": request(NOOP, major=0),
    "major version 1": request(NOOP, major=1),
    "major version 3": request(NOOP, major=3),
    "major version 255": request(NOOP, major=255),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303"),
}


@pytest.mark.parametrize("name", CLOSING)
def test_malformed_frame_closes_the_connection(connection: RawConnection, pykcmd: Pykcmd, name: str) -> None:
    """Without an answer; it is logged once."""
    said = len(pykcmd.log)
    connection.send(CLOSING[name])
    assert connection.is_closed()
    lines = pykcmd.log[said:].splitlines()
    warnings = [line for line in lines if f"UID {USER}" in line and "warning" in line]
    assert len(warnings) == 1


def test_requests_before_malformed_frame_are_answered(connection: RawConnection) -> None:
    """The malformed frame then closes the connection."""
    assert connection.ask(NOOP) == 0
    assert connection.ask(GET_PRINCIPAL, b"%d\0" % USER) == 0
    connection.send(b"\0\0\0\1\2")
    assert connection.is_closed()


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 8, 20])
def test_truncated_frame_is_dropped(connection: RawConnection, size: int) -> None:
    """If a client disconnects in the middle of a frame, nothing is executed."""
    whole = request(INITIALIZE, NAME + PRINCIPAL)
    assert size < len(whole)
    connection.send(whole[:size])
    connection.no_more()
    assert connection.is_closed()


def test_frame_in_pieces_is_answered(connection: RawConnection) -> None:
    """Also if bytes of the next frame arrive with the last piece."""
    two = request(GET_PRINCIPAL, b"%d\0" % USER) + request(NOOP)
    for at in range(len(two)):
        connection.send(two[at : at + 1])
    assert connection.reply() == (0, PRINCIPAL)
    assert connection.reply() == (0, b"")


def test_pipelined_requests_are_answered_in_order(connection: RawConnection) -> None:
    opcodes = [NOOP, 999, NOOP, 4711, 13] * 100
    connection.send(b"".join(map(request, opcodes)))
    answers = {NOOP: 0, 999: FCC_INTERNAL, 4711: FCC_INTERNAL, 13: CC_NOSUPP}
    assert [connection.reply()[0] for _ in opcodes] == [answers[opcode] for opcode in opcodes]


def test_minor_version_is_ignored(connection: RawConnection) -> None:
    connection.send(request(NOOP, minor=9))
    assert connection.reply() == (0, b"")


@pytest.mark.parametrize("opcode", [29, 100, 13000, 13003, 65535])
def test_unknown_operation_is_refused(connection: RawConnection, opcode: int) -> None:
    """It is answered as an internal error, and the connection stays open."""
    for arguments in (b"", NAME, b"\xff" * 100):
        assert connection.ask(opcode, arguments) == FCC_INTERNAL
    assert connection.ask(NOOP) == 0


@pytest.mark.parametrize("opcode", [13, 14, 15, 16, 24, 25, 26, 27, 28])
def test_unsupported_operation_is_refused(connection: RawConnection, opcode: int) -> None:
    """It is answered as not supported, and the connection stays open."""
    assert connection.ask(opcode, NAME) == CC_NOSUPP
    assert connection.ask(NOOP) == 0


FLAGS = b"\0\0\0\0"
TIMES = bytes(16) + b"\0" + bytes(4)
KEY = b"\0\x12" + b"\0\0\0\x04keys"
NO_LISTS = bytes(8)
TICKETS = bytes(8)
CREDENTIAL = PRINCIPAL + PRINCIPAL + KEY + TIMES + NO_LISTS + TICKETS

MALFORMED = {
    "no name": (GET_PRINCIPAL, b""),
    "name without NUL": (GET_PRINCIPAL, NAME[:-1]),
    "second name without NUL": (MOVE_CACHE, NAME + NAME[:-1]),
    "default's name without NUL": (SET_DEFAULT_CACHE, NAME[:-1]),
    "no principal": (INITIALIZE, NAME),
    "principal cut off": (INITIALIZE, NAME + PRINCIPAL[:-1]),
    "realm longer than the frame": (INITIALIZE, NAME + bytes(8) + U32_MAX + b"REALM"),
    "components without end": (INITIALIZE, NAME + b"\0\0\0\1" + U32_MAX + bytes(4)),
    "many empty components": (INITIALIZE, NAME + b"\0\0\0\1\0\1\0\0" + bytes(4 + 4 * 65536)),
    "component that lies": (INITIALIZE, NAME + b"\0\0\0\1\0\0\0\1" + bytes(4) + b"\0\0\1\0short"),
    "offset cut off": (SET_KDC_OFFSET, NAME + b"\0\0"),
    "UUID cut off": (GET_CRED_BY_UUID, NAME + bytes(15)),
    "ccache's UUID cut off": (GET_CACHE_BY_UUID, bytes(15)),
    "no credential": (STORE, NAME),
    "credential cut off": (STORE, NAME + CREDENTIAL[:-1]),
    "key longer than the frame": (STORE, NAME + PRINCIPAL * 2 + b"\0\x12" + U32_MAX + TIMES),
    "addresses without end": (STORE, NAME + PRINCIPAL * 2 + KEY + TIMES + U32_MAX + bytes(4) + TICKETS),
    "authdata that lies": (STORE, NAME + PRINCIPAL * 2 + KEY + TIMES + bytes(4) + b"\0\0\0\2\0\1" + TICKETS),
    "ticket longer than the frame": (STORE, NAME + PRINCIPAL * 2 + KEY + TIMES + NO_LISTS + U32_MAX),
    "no tag": (RETRIEVE, NAME + FLAGS),
    "tag of a header alone": (REMOVE_CRED, NAME + FLAGS + b"\0\0\0\3"),
    "tag with a client cut off": (RETRIEVE, NAME + FLAGS + b"\0\0\0\1" + PRINCIPAL[:-1]),
    "tag without the fields it names": (RETRIEVE, NAME + FLAGS + b"\0\0\0\x7f" + PRINCIPAL * 2 + KEY + TIMES),
    "no credentials": (REPLACE, NAME + FLAGS + PRINCIPAL),
    "credentials without end": (REPLACE, NAME + FLAGS + PRINCIPAL + U32_MAX),
    "credential of no length": (REPLACE, NAME + FLAGS + PRINCIPAL + b"\0\0\0\1" + bytes(4)),
    "credential longer than the frame": (
        REPLACE,
        NAME + FLAGS + PRINCIPAL + b"\0\0\0\1" + U32_MAX + CREDENTIAL,
    ),
    "second credential bad": (
        REPLACE,
        NAME + FLAGS + PRINCIPAL + b"\0\0\0\2" + (b"\0\0\0\x00" + CREDENTIAL) * 2,
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_arguments_are_refused(connection: RawConnection, what: str) -> None:
    """They are a format error and change nothing; the connection stays open."""
    opcode, arguments = MALFORMED[what]
    assert connection.ask(opcode, arguments) == CC_FORMAT
    assert connection.ask(NOOP) == 0


def test_well_formed_requests_are_accepted(connection: RawConnection) -> None:
    """Otherwise, the other tests would prove nothing."""
    assert connection.ask(INITIALIZE, NAME + PRINCIPAL) == 0
    assert connection.ask(STORE, NAME + CREDENTIAL) == 0
    assert connection.ask(RETRIEVE, NAME + FLAGS + b"\0\0\0\1" + PRINCIPAL + TIMES) == 0
    one = b"\0\0\0\1" + len(CREDENTIAL).to_bytes(4) + CREDENTIAL
    assert connection.ask(REPLACE, NAME + FLAGS + PRINCIPAL + one) == 0
    assert connection.ask(5, NAME) == 0


def test_bytes_after_last_field_are_accepted(connection: RawConnection) -> None:
    """Some clients send such bytes."""
    assert connection.ask(GET_PRINCIPAL, b"%d\0" % USER + b"\0\0\0\0") == 0
    assert connection.ask(INITIALIZE, NAME + PRINCIPAL + b"\0") == 0
    # Bytes after a credential belong to it: it is returned as it was sent.
    stored = CREDENTIAL + b"behind"
    assert connection.ask(STORE, NAME + stored) == 0
    connection.send(request(GET_CRED_LIST, NAME))
    assert connection.reply() == (0, b"\0\0\0\1" + len(stored).to_bytes(4) + stored)
    assert connection.ask(5, NAME + b"behind") == 0


def test_announced_request_needs_no_memory(connection: RawConnection, pykcmd: Pykcmd) -> None:
    """A length that is allowed but never sent costs no memory and delays nobody."""
    with ExitStack() as held:
        for _ in range(50):
            announcing = held.enter_context(RawConnection(pykcmd.socket_path, USER))
            announcing.send((8 * 1024 * 1024).to_bytes(4) + b"\2\0\0\0")
        assert connection.ask(NOOP) == 0
        assert pykcmd.resident_size < 100_000_000


def test_client_that_does_not_read_delays_nobody(
    connection: RawConnection, pykcmd: Pykcmd, mit: MitClient
) -> None:
    """A client that requests many replies and reads none does not delay the others."""
    mit.kvno("host/server.pykcm.test", "HTTP/www.pykcm.test")
    with RawConnection(pykcmd.socket_path, USER) as deaf:
        # The requests fit into the socket's buffer, their replies do not.
        deaf.send(request(GET_CRED_LIST, b"%d\0" % USER) * 1000)
        assert connection.ask(NOOP) == 0
        assert mit.ok("kdestroy") == ""
        mit.kinit("alice")


def test_noise_after_any_opcode_gets_one_answer(connection: RawConnection) -> None:
    """Any bytes after any opcode get one answer, and the connection stays open."""
    noise = (
        b"",
        b"\0",
        b"\0" * 64,
        b"\xff" * 64,
        NAME + b"\xff" * 200,
        NAME + b"\0" * 200,
        b"%s\0" % (b"9" * 5000),
    )
    # An empty name stands for the default ccache, which must not be the one that is looked at afterwards.
    connection.ask(SET_DEFAULT_CACHE, NAME)
    opcodes = (*range(32), *range(12995, 13010))
    for opcode, arguments in product(opcodes, noise):
        code = connection.ask(opcode, arguments)
        assert code == 0 or code < -1765320000, (opcode, arguments, code)
    connection.ask(SET_DEFAULT_CACHE, b"%d\0" % USER)
    connection.ask(5, NAME)
