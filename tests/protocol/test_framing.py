"""Frames out of a stream in any pieces, and what ends a stream."""

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.frames import all_frames
from pykcm.protocol.framing import (
    HEADER_SIZE,
    MAX_REPLY_SIZE,
    Frame,
    FrameReader,
    FramingError,
    Pieces,
    pack_reply,
    pack_request,
)
from tests.protocol.layouts import frame, i32, request, u32
from tests.protocol.strategies import U16
from tests.vectors import ExchangeSet, load_all

MIB = 1024 * 1024
MAX_SIZE = MIB

STOCK = load_all()
STREAMS = [b"".join(exchange.request for exchange in stocked.exchanges) for stocked in STOCK]

every_exchange_set = pytest.mark.parametrize("stocked", STOCK, ids=lambda stocked: stocked.name)


def read(pieces: Iterable[bytes], max_size: int = MAX_SIZE) -> list[Frame]:
    """The frames of a stream that arrives in these pieces and ends between two requests."""
    reader = FrameReader(max_size)
    frames = [found for piece in pieces for found in all_frames(reader, piece)]
    assert not reader.size
    return frames


def expected(stocked: ExchangeSet) -> list[Frame]:
    requests = [exchange.request for exchange in stocked.exchanges]
    return [Frame(int.from_bytes(whole[6:8], "big"), whole[4:]) for whole in requests]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(places), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(bounds)]


# Whatever pieces the stream comes in


@every_exchange_set
def test_a_request_at_a_time(stocked: ExchangeSet) -> None:
    """A request that arrives whole is one frame, with its opcode and all of its bytes."""
    assert read(exchange.request for exchange in stocked.exchanges) == expected(stocked)


@every_exchange_set
def test_byte_by_byte(stocked: ExchangeSet) -> None:
    """A request is whole with its last byte and not before, when its bytes come one at a time."""
    reader = FrameReader(MAX_SIZE)
    for exchange, whole in zip(stocked.exchanges, expected(stocked), strict=True):
        *bytes_before, last = [exchange.request[at : at + 1] for at in range(len(exchange.request))]
        for number, byte in enumerate(bytes_before, 1):
            assert all_frames(reader, byte) == []
            assert reader.size == number
        assert all_frames(reader, last) == [whole]
        assert not reader.size


@every_exchange_set
def test_several_at_once(stocked: ExchangeSet) -> None:
    """Requests that arrive together are all there, in their order."""
    assert read([b"".join(exchange.request for exchange in stocked.exchanges)]) == expected(stocked)


@every_exchange_set
def test_with_bytes_behind(stocked: ExchangeSet) -> None:
    """A request is whole though the next one has begun, and the next is whole when the rest has come."""
    reader = FrameReader(MAX_SIZE)
    requests = [exchange.request for exchange in stocked.exchanges]
    followers = [*requests[1:], request(0)]
    unread = requests[0]
    for follower, whole in zip(followers, expected(stocked), strict=True):
        begun = len(follower) // 2
        assert all_frames(reader, unread + follower[:begun]) == [whole]
        assert reader.size == begun
        unread = follower[begun:]


@given(st.sampled_from(range(len(STOCK))), st.data())
def test_random_pieces(index: int, made_up: st.DataObject) -> None:
    """Where the pieces end makes no difference."""
    stream = STREAMS[index]
    places = made_up.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    assert read(cut(stream, places)) == expected(STOCK[index])


@given(st.lists(st.tuples(U16, st.binary(max_size=50)), max_size=8), st.data())
def test_random_requests_in_random_pieces(asked: list[tuple[int, bytes]], made_up: st.DataObject) -> None:
    """Any opcodes and arguments come out as they went in, whatever the pieces."""
    stream = b"".join(request(opcode, arguments) for opcode, arguments in asked)
    places = made_up.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    frames = read(cut(stream, places))
    assert [(found.opcode, found.message[HEADER_SIZE:]) for found in frames] == asked


def test_a_large_request_in_pieces() -> None:
    """A request of the greatest length is read whole from pieces such as a socket gives."""
    whole = request(6, bytes(range(256)) * 4096)[: 4 + MAX_SIZE]
    whole = u32(MAX_SIZE) + whole[4:]
    pieces = [whole[at : at + 65536] for at in range(0, len(whole), 65536)]
    (found,) = read(pieces)
    assert found == Frame(6, whole[4:])


def test_nothing_arrives() -> None:
    """No bytes are no frame, and begin none."""
    assert read([b"", b""]) == []


def test_the_message_is_a_value_of_its_own() -> None:
    """A frame does not change when its stream goes on."""
    reader = FrameReader(MAX_SIZE)
    all_frames(reader, request(1, b"one\0")[:5])
    (first,) = all_frames(reader, request(1, b"one\0")[5:] + request(2, b"two\0")[:3])
    all_frames(reader, request(2, b"two\0")[3:])
    assert first == Frame(1, b"\2\0\0\1one\0")
    assert isinstance(first.message, bytes)


# Versions and lengths


@pytest.mark.parametrize("length", range(4))
def test_a_length_under_four(length: int) -> None:
    """A request that cannot hold its own header ends the stream, as soon as its length is there."""
    with pytest.raises(FramingError):
        all_frames(FrameReader(MAX_SIZE), u32(length))


@pytest.mark.parametrize("length", [MAX_SIZE + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_length_over_the_maximum(length: int) -> None:
    """A request over the maximum ends the stream, as soon as its length is there."""
    with pytest.raises(FramingError):
        all_frames(FrameReader(MAX_SIZE), u32(length))


@pytest.mark.parametrize("size", [4, 5, 99, 100])
def test_lengths_up_to_the_maximum(size: int) -> None:
    """A request of four bytes and one of exactly the maximum are read."""
    whole = frame((b"\2\0\0\0" + bytes(96))[:size])
    assert read([whole], max_size=100) == [Frame(0, whole[4:])]
    assert read(cut(whole, [1, 6]), max_size=100) == [Frame(0, whole[4:])]


def test_one_byte_over_the_maximum() -> None:
    """A request one byte over the maximum is refused, also when it arrives whole."""
    with pytest.raises(FramingError):
        read([frame(b"\2\0\0\0" + bytes(97))], max_size=100)


@pytest.mark.parametrize("major", [0, 1, 3, 4, 255])
def test_another_major_version(major: int) -> None:
    """Another major version ends the stream, when the request arrives whole."""
    with pytest.raises(FramingError):
        all_frames(FrameReader(MAX_SIZE), frame(bytes([major, 0, 0, 0])))


@pytest.mark.parametrize("major", [0, 1, 3, 255])
def test_another_major_version_is_noticed_at_once(major: int) -> None:
    """Another major version is noticed with its byte, though the rest of the request never comes."""
    reader = FrameReader(MAX_SIZE)
    assert all_frames(reader, u32(1000)) == []
    with pytest.raises(FramingError):
        all_frames(reader, bytes([major]))


@pytest.mark.parametrize("bad", [u32(3), u32(MAX_SIZE + 1), u32(100) + b"\1"])
def test_a_bad_request_behind_a_good_one(bad: bytes) -> None:
    """What ends the stream is noticed behind other requests too."""
    reader = FrameReader(MAX_SIZE)
    assert len(all_frames(reader, request(0) + bad[:2])) == 1
    with pytest.raises(FramingError):
        all_frames(reader, bad[2:])


@pytest.mark.parametrize("minor", [0, 1, 255])
def test_the_minor_version_does_not_count(minor: int) -> None:
    """Of the version, the major number alone decides."""
    assert [found.opcode for found in read([frame(bytes([2, minor, 0, 7]))])] == [7]


@pytest.mark.parametrize("opcode", [0, 29, 12999, 13000, 13003, 65535])
def test_opcodes_are_not_judged(opcode: int) -> None:
    """An opcode that nobody knows is a frame like any other: the connection stays."""
    assert [found.opcode for found in read([request(opcode)])] == [opcode]


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_random_bytes(pieces: list[bytes]) -> None:
    """Bytes that are no requests are frames, wait for more or end the stream, and nothing else."""
    reader = FrameReader(1000)
    try:
        for piece in pieces:
            for found in all_frames(reader, piece):
                assert 4 <= len(found.message) <= 1000
                assert found.message[0] == 2
    except FramingError:
        pass


# What a stream costs


def test_an_announced_request_costs_nothing() -> None:
    """A great length that is only announced takes no memory."""
    announced = request(6, b"")[4:]
    tracemalloc.start()
    try:
        readers = [FrameReader(10 * MIB) for _ in range(100)]
        for reader in readers:
            assert all_frames(reader, u32(10 * MIB) + announced) == []
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(reader.size for reader in readers)
    assert held <= peak < 100 * 1024


def test_nothing_is_kept_of_what_was_read() -> None:
    """A reader's memory does not grow with the requests that it has read."""
    reader = FrameReader(MAX_SIZE)
    stream = request(6, bytes(5000))
    tracemalloc.start()
    try:
        for _ in range(50):
            for piece in cut(stream + stream, [7, 5003]):
                all_frames(reader, piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not reader.size
    assert held < 64 * 1024


def test_many_small_requests_at_once() -> None:
    """Tens of thousands of pipelined requests in one piece are all read."""
    assert len(read([request(20) * 50_000 + request(21)[:3], request(21)[3:]])) == 50_001


# One at a time


def test_a_frame_at_a_time() -> None:
    """Frames that come together are given one at a time; the others stay as they came, also in memory."""
    reader = FrameReader(MAX_SIZE)
    count = 10_000
    assert reader.take(request(7) * count) == Frame(7, request(7)[4:])
    for number in range(1, count):
        assert reader.has_next
        assert reader.size == 8 * (count - number)
        assert reader.size <= reader.memory < 8 * count + 1024
        assert reader.next_frame() == Frame(7, request(7)[4:])
    assert not reader.has_next
    assert reader.next_frame() is None
    assert (reader.size, reader.memory) == (0, 0)


@pytest.mark.parametrize("bad", [u32(3), u32(MAX_SIZE + 1), u32(100) + b"\1"])
def test_an_error_behind_frames(bad: bytes) -> None:
    """Frames before what ends the stream are given first, and then the error."""
    reader = FrameReader(MAX_SIZE)
    assert reader.take(request(1) + request(2) + bad) == Frame(1, request(1)[4:])
    assert reader.next_frame() == Frame(2, request(2)[4:])
    assert reader.has_next
    with pytest.raises(FramingError):
        reader.next_frame()


def test_what_is_missing() -> None:
    """As soon as the length has come, it is known how much of the frame is missing."""
    reader = FrameReader(MAX_SIZE)
    whole = request(6, bytes(1000))
    for size, missing in [(0, 0), (3, 0), (4, len(whole) - 4), (500, len(whole) - 500)]:
        assert reader.take(whole[reader.size : size]) is None
        assert reader.missing == missing
        assert not reader.has_next
    assert reader.take(whole[500:]) is not None
    assert reader.missing == 0


def test_memory() -> None:
    """What a reader says that it takes is what Python has allocated for it."""
    reader = FrameReader(10 * MIB)
    tracemalloc.start()
    try:
        reader.take(u32(10 * MIB))
        for _ in range(100):
            reader.take(bytes([2]) + bytes(16 * 1024))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert abs(held - reader.memory) < 16 * 1024


# Packing


@given(U16, st.binary(max_size=100))
def test_packed_requests(opcode: int, arguments: bytes) -> None:
    """A request is its length, the version 2.0, the opcode and the arguments."""
    assert pack_request(opcode, arguments) == request(opcode, arguments)


@pytest.mark.parametrize("code", [0, -1765328189, 122])
@pytest.mark.parametrize("payload", [b"", b"20001\0"])
def test_packed_replies(code: int, payload: bytes) -> None:
    """A reply's length counts code and payload, and its outer status is 0 whatever the code."""
    assert pack_reply(code, payload) == u32(4 + len(payload)) + u32(0) + i32(code) + payload


@pytest.mark.parametrize("size", [0, 10, 32 * 1024, MIB])
def test_a_reply_in_pieces(size: int) -> None:
    """A payload in pieces makes the same bytes; what is long is not copied."""
    piece = bytes(size)
    whole = b"abc" + piece + b"def"
    reply = pack_reply(0, Pieces(len(whole), [b"abc", piece, b"def"]))
    assert isinstance(reply, bytes) == (size <= 10)
    if isinstance(reply, bytes):
        assert reply == pack_reply(0, whole)
    else:
        assert b"".join(reply.pieces) == pack_reply(0, whole)
        assert reply.size == len(whole) + 12
        assert reply.pieces[2] is piece


def test_a_reply_without_payload() -> None:
    """A code alone is a whole reply."""
    assert pack_reply(-1765328242) == u32(4) + u32(0) + i32(-1765328242)


def test_the_greatest_reply() -> None:
    """The greatest reply is what MIT's client still takes."""
    assert MAX_REPLY_SIZE == 10 * MIB
