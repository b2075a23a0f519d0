"""A connection without I/O: bytes go in, requests come out one at a time, and its states."""

import random
import struct

import pytest

from pykcm.protocol.framing import Frame, FramingError
from pykcm.server.connection import Connection, State

MAX_REQUEST = 1 << 16


def request(opcode: int, arguments: bytes = b"") -> bytes:
    return struct.pack(">IBBH", 4 + len(arguments), 2, 0, opcode) + arguments


def frame(opcode: int, arguments: bytes = b"") -> Frame:
    return Frame(opcode, request(opcode, arguments)[4:])


def state(connection: Connection) -> State:
    """The current state. A type checker would remember an earlier assertion about the attribute."""
    return connection.state


@pytest.fixture
def connection() -> Connection:
    """A connection on which no byte has come yet."""
    return Connection(MAX_REQUEST)


def test_complete_request_is_returned(connection: Connection) -> None:
    """A complete request is returned at once; when its reply is sent, no memory is held."""
    assert state(connection) is State.IDLE
    assert connection.receive(request(7, b"abc")) == frame(7, b"abc")
    assert state(connection) is State.SERVING
    assert connection.memory == 7
    connection.replied(0)
    assert state(connection) is State.IDLE
    assert connection.memory == 0


def test_request_in_pieces_is_returned_with_its_last_byte(connection: Connection) -> None:
    """A request that comes in pieces is returned when its last byte has come."""
    whole = request(7, b"abc")
    for at in range(len(whole) - 1):
        assert connection.receive(whole[at : at + 1]) is None
        assert state(connection) is State.RECEIVING
        assert connection.takes_bytes
    assert connection.receive(whole[-1:]) == frame(7, b"abc")
    assert state(connection) is State.SERVING
    assert not connection.takes_bytes


def test_pipelined_requests_are_returned_one_at_a_time(connection: Connection) -> None:
    """Of requests that come together, each is returned when the one before is answered."""
    assert connection.receive(request(1) + request(2) + request(3)[:6]) == frame(1)
    connection.replied(0)
    assert state(connection) is State.REQUESTED
    assert not connection.takes_bytes
    assert connection.next_request() == frame(2)
    assert state(connection) is State.SERVING
    connection.replied(0)
    assert state(connection) is State.RECEIVING
    assert connection.receive(request(3)[6:]) == frame(3)


def test_next_request_waits_until_the_reply_is_taken(connection: Connection) -> None:
    """Until a reply is taken, no bytes are taken; then the next request is ready."""
    connection.receive(request(1) + request(2))
    connection.replied(100)
    for unsent in (100, 50, 1):
        connection.sent(unsent)
        assert state(connection) is State.SENDING
        assert connection.unsent == unsent
        assert not connection.takes_bytes
    connection.sent(0)
    assert state(connection) is State.REQUESTED


def test_missing_bytes_are_known_from_the_length(connection: Connection) -> None:
    """The number of missing bytes is known when the length of the request has come."""
    connection.receive(request(1, bytes(1000))[:100])
    assert connection.missing == 1008 - 100


def test_requests_before_a_framing_error_are_returned(connection: Connection) -> None:
    """Requests before a bad frame are returned first."""
    assert connection.receive(request(1) + request(2) + bytes(4)) == frame(1)
    connection.replied(0)
    assert connection.next_request() == frame(2)
    connection.replied(0)
    assert state(connection) is State.REQUESTED
    with pytest.raises(FramingError):
        connection.next_request()


def test_too_long_request_is_an_error_at_once(connection: Connection) -> None:
    """A request that is too long is an error as soon as its length has come."""
    with pytest.raises(FramingError):
        connection.receive(struct.pack(">I", MAX_REQUEST + 1))


def test_memory_of_waiting_requests_is_counted(connection: Connection) -> None:
    """Thousands of tiny waiting requests take their own size in memory, and at most 1 KiB more."""
    count = 2000
    connection.receive(request(0) * count)
    assert 8 * (count - 1) <= connection.memory <= 8 * count + 1024
    for _ in range(count - 1):
        connection.replied(0)
        assert connection.next_request() == frame(0)
    connection.replied(0)
    assert connection.memory == 0


def test_closed_connection_holds_nothing(connection: Connection) -> None:
    """A closed connection holds no memory and takes no bytes."""
    connection.receive(request(1) + request(2))
    connection.replied(10)
    connection.close()
    assert state(connection) is State.CLOSED
    assert (connection.memory, connection.unsent) == (0, 0)
    assert not connection.takes_bytes


@pytest.mark.parametrize("seed", range(20))
def test_requests_survive_any_pieces(connection: Connection, seed: int) -> None:
    """All requests come out in order, however they are cut and however slowly replies are taken."""
    chosen = random.Random(seed)
    expected = [(chosen.randrange(100), chosen.randbytes(chosen.randrange(60))) for _ in range(200)]
    stream = b"".join(request(*each) for each in expected)
    got: list[Frame] = []
    while len(got) < len(expected):
        found = None
        if connection.takes_bytes:
            size = chosen.randrange(1, 200)
            found = connection.receive(stream[:size])
            stream = stream[size:]
        elif connection.state is State.REQUESTED:
            found = connection.next_request()
        else:
            assert state(connection) is State.SENDING
            connection.sent(chosen.choice([0, connection.unsent]))
        if found is not None:
            got.append(found)
            connection.replied(chosen.choice([0, 0, 5]))
    assert got == [frame(*each) for each in expected]
