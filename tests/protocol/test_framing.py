"""Framing: requests from a stream in any pieces, errors that end a stream, and replies."""

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
def test_whole_request_is_one_frame(stocked: ExchangeSet) -> None:
    """A request that arrives complete is one frame, with its opcode and all of its bytes."""
    assert read(exchange.request for exchange in stocked.exchanges) == expected(stocked)


@every_exchange_set
def test_request_is_complete_with_its_last_byte(stocked: ExchangeSet) -> None:
    """A request that arrives byte by byte is complete with its last byte and not before."""
    reader = FrameReader(MAX_SIZE)
    for exchange, whole in zip(stocked.exchanges, expected(stocked), strict=True):
        *bytes_before, last = [exchange.request[at : at + 1] for at in range(len(exchange.request))]
        for number, byte in enumerate(bytes_before, 1):
            assert all_frames(reader, byte) == []
            assert reader.size == number
        assert all_frames(reader, last) == [whole]
        assert not reader.size


@every_exchange_set
def test_requests_that_arrive_together(stocked: ExchangeSet) -> None:
    """Requests that arrive together are all read, in their order."""
    assert read([b"".join(exchange.request for exchange in stocked.exchanges)]) == expected(stocked)


@every_exchange_set
def test_request_with_the_beginning_of_the_next(stocked: ExchangeSet) -> None:
    """A request is complete while the next one has begun; the next is complete when the rest arrives."""
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
def test_pieces_make_no_difference(index: int, made_up: st.DataObject) -> None:
    """The boundaries of the pieces make no difference."""
    stream = STREAMS[index]
    places = made_up.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    assert read(cut(stream, places)) == expected(STOCK[index])


@given(st.lists(st.tuples(U16, st.binary(max_size=50)), max_size=8), st.data())
def test_random_requests_in_random_pieces(asked: list[tuple[int, bytes]], made_up: st.DataObject) -> None:
    """Any opcodes and arguments are read as they were packed, whatever the pieces are."""
    stream = b"".join(request(opcode, arguments) for opcode, arguments in asked)
    places = made_up.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    frames = read(cut(stream, places))
    assert [(found.opcode, found.message[HEADER_SIZE:]) for found in frames] == asked


def test_largest_request_in_pieces() -> None:
    """A request of the greatest length is read from pieces like those of a socket."""
    whole = request(6, bytes(range(256)) * 4096)[: 4 + MAX_SIZE]
    whole = u32(MAX_SIZE) + whole[4:]
    pieces = [whole[at : at + 65536] for at in range(0, len(whole), 65536)]
    (found,) = read(pieces)
    assert found == Frame(6, whole[4:])


def test_no_bytes_are_no_frame() -> None:
    """No bytes are no frame, and do not begin one."""
    assert read([b"", b""]) == []


def test_frame_does_not_change_with_its_stream() -> None:
    """A frame does not change when its stream goes on."""
    reader = FrameReader(MAX_SIZE)
    all_frames(reader, request(1, b"one\0")[:5])
    (first,) = all_frames(reader, request(1, b"one\0")[5:] + request(2, b"two\0")[:3])
    all_frames(reader, request(2, b"two\0")[3:])
    assert first == Frame(1, b"\2\0\0\1one\0")
    assert isinstance(first.message, bytes)


# Versions and lengths


@pytest.mark.parametrize("length", range(4))
def test_too_small_length_ends_the_stream(length: int) -> None:
    """A request that cannot hold its own header ends the stream, as soon as its length is there."""
    with pytest.raises(FramingError):
        all_frames(FrameReader(MAX_SIZE), u32(length))


@pytest.mark.parametrize("length", [MAX_SIZE + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_too_large_length_ends_the_stream(length: int) -> None:
    """A request over the maximum ends the stream, as soon as its length is there."""
    with pytest.raises(FramingError):
        all_frames(FrameReader(MAX_SIZE), u32(length))


@pytest.mark.parametrize("size", [4, 5, 99, 100])
def test_smallest_and_largest_request_are_read(size: int) -> None:
    """A request of four bytes and one of exactly the maximum are read."""
    whole = frame((b"\2\0\0\0" + bytes(96))[:size])
    assert read([whole], max_size=100) == [Frame(0, whole[4:])]
    assert read(cut(whole, [1, 6]), max_size=100) == [Frame(0, whole[4:])]


def test_complete_request_over_the_maximum_is_refused() -> None:
    """A request one byte over the maximum is refused, also when it arrives complete."""
    with pytest.raises(FramingError):
        read([frame(b"\2\0\0\0" + bytes(97))], max_size=100)


@pytest.mark.parametrize("major", [0, 1, 3, 4, 255])
def test_other_major_version_ends_the_stream(major: int) -> None:
    """Another major version ends the stream, when the request arrives complete."""
    with pytest.raises(FramingError):
        all_frames(FrameReader(MAX_SIZE), frame(bytes([major, 0, 0, 0])))


@pytest.mark.parametrize("major", [0, 1, 3, 255])
def test_other_major_version_ends_the_stream_at_once(major: int) -> None:
    """Another major version is noticed with its byte, even if the rest never arrives."""
    reader = FrameReader(MAX_SIZE)
    assert all_frames(reader, u32(1000)) == []
    with pytest.raises(FramingError):
        all_frames(reader, bytes([major]))


@pytest.mark.parametrize("bad", [u32(3), u32(MAX_SIZE + 1), u32(100) + b"\1"])
def test_bad_request_after_a_good_one_ends_the_stream(bad: bytes) -> None:
    """A bad request ends the stream also after other requests."""
    reader = FrameReader(MAX_SIZE)
    assert len(all_frames(reader, request(0) + bad[:2])) == 1
    with pytest.raises(FramingError):
        all_frames(reader, bad[2:])


@pytest.mark.parametrize("minor", [0, 1, 255])
def test_minor_version_does_not_count(minor: int) -> None:
    """Only the major version number counts."""
    assert [found.opcode for found in read([frame(bytes([2, minor, 0, 7]))])] == [7]


@pytest.mark.parametrize("opcode", [0, 29, 12999, 13000, 13003, 65535])
def test_unknown_opcode_is_a_frame(opcode: int) -> None:
    """An unknown opcode is a frame like any other: the connection stays open."""
    assert [found.opcode for found in read([request(opcode)])] == [opcode]


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_random_stream_raises_only_framing_errors(pieces: list[bytes]) -> None:
    """Random bytes are frames, wait for more, or end the stream, and nothing else."""
    reader = FrameReader(1000)
    try:
        for piece in pieces:
            for found in all_frames(reader, piece):
                assert 4 <= len(found.message) <= 1000
                assert found.message[0] == 2
    except FramingError:
        pass


# What a stream costs


def test_announced_length_allocates_nothing() -> None:
    """A large length that is only announced takes no memory."""
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


def test_memory_does_not_grow_with_read_requests() -> None:
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


def test_many_small_requests_in_one_piece() -> None:
    """Tens of thousands of pipelined requests in one piece are all read."""
    assert len(read([request(20) * 50_000 + request(21)[:3], request(21)[3:]])) == 50_001


# One at a time


def test_frames_are_cut_one_at_a_time() -> None:
    """Frames that arrive together are returned one at a time; the others stay as bytes."""
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
def test_frames_before_an_error_are_returned(bad: bytes) -> None:
    """Frames before an error are returned first, and then the error is raised."""
    reader = FrameReader(MAX_SIZE)
    assert reader.take(request(1) + request(2) + bad) == Frame(1, request(1)[4:])
    assert reader.next_frame() == Frame(2, request(2)[4:])
    assert reader.has_next
    with pytest.raises(FramingError):
        reader.next_frame()


def test_missing_bytes_are_known_with_the_length() -> None:
    """As soon as the length has arrived, the number of missing bytes is known."""
    reader = FrameReader(MAX_SIZE)
    whole = request(6, bytes(1000))
    for size, missing in [(0, 0), (3, 0), (4, len(whole) - 4), (500, len(whole) - 500)]:
        assert reader.take(whole[reader.size : size]) is None
        assert reader.missing == missing
        assert not reader.has_next
    assert reader.take(whole[500:]) is not None
    assert reader.missing == 0


def test_reported_memory_is_what_is_allocated() -> None:
    """The memory that a reader reports is what Python has allocated for it."""
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
def test_layout_of_a_packed_request(opcode: int, arguments: bytes) -> None:
    """A request is its length, the version 2.0, the opcode and the arguments."""
    assert pack_request(opcode, arguments) == request(opcode, arguments)


@pytest.mark.parametrize("code", [0, -1765328189, 122])
@pytest.mark.parametrize("payload", [b"", b"20001\0"])
def test_layout_of_a_packed_reply(code: int, payload: bytes) -> None:
    """A reply's length counts code and payload, and its outer status is 0 whatever the code."""
    assert pack_reply(code, payload) == u32(4 + len(payload)) + u32(0) + i32(code) + payload


@pytest.mark.parametrize("size", [0, 10, 32 * 1024, MIB])
def test_reply_in_pieces_has_the_same_bytes(size: int) -> None:
    """A payload in pieces gives the same bytes; a large one is not copied."""
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


def test_reply_without_a_payload() -> None:
    """A code alone is a complete reply."""
    assert pack_reply(-1765328242) == u32(4) + u32(0) + i32(-1765328242)


def test_largest_reply_is_accepted_by_mit() -> None:
    """The largest reply is what MIT's client still accepts."""
    assert MAX_REPLY_SIZE == 10 * MIB
