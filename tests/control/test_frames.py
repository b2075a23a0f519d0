"""Frames cut out of a stream, and decoded as the types that the daemon expects."""

import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.control.frames import FrameError, FrameReader, FrameType, FrameTypeError, encode
from pykcm.control.messages import (
    LARGEST_FRAME,
    LARGEST_MESSAGE,
    LARGEST_REQUEST,
    ControlError,
    read_arguments,
    read_envelope,
)
from pykcm.control.records import HEADER, is_credential
from pykcm.control.requests import REQUESTS

BLOB = FrameType(bytes, LARGEST_FRAME)


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)


values = st.recursive(
    plain | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def key(text: str) -> bytes:
    return msgspec.msgpack.encode(text)


@given(messages=st.lists(values, max_size=4), cuts=st.lists(st.integers(0, 400), max_size=5))
def test_frames_survive_any_cuts_of_the_stream(messages: list[Any], cuts: list[int]) -> None:
    """Decoded messages equal the sent ones, in any pieces of the stream."""
    stream = b"".join(map(encode, messages))
    ends = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})
    reader = FrameReader(100_000)
    received: list[Any] = []
    for start, end in pairwise(ends):
        reader.feed(stream[start:end])
        while reader.has_frame():
            received.append(msgspec.msgpack.decode(reader.take()))
    assert received == messages
    assert reader.size == 0


def test_length_is_refused_when_it_is_announced() -> None:
    """A frame that is too long is refused at its length; one of exactly the limit is accepted."""
    reader = FrameReader(1000)
    reader.feed((1000).to_bytes(4) + bytes(1000) + b"\0\0\3")
    assert reader.take() == bytes(1000)
    with pytest.raises(FrameError, match="larger than 1000"):
        reader.feed(b"\xe9")
    longer = FrameReader(1000)
    longer.feed((11).to_bytes(4))
    with pytest.raises(FrameError, match="larger than 10 bytes"):
        longer.limit(10)
    with pytest.raises(FrameError, match="without contents"):
        FrameReader(1000).feed(bytes(4))


def test_only_byte_strings_are_credentials() -> None:
    """The first byte of a frame distinguishes a credential from the next ccache's header."""
    assert all(is_credential(encode(bytes(size))[4:]) for size in (0, 255, 256, 65_536))
    others: list[Any] = ["text", {}, [], 0, 2**63, None, 1.5]
    assert not any(is_credential(encode(each)[4:]) for each in others)


def largest(body: bytes, filler: bytes, most: int) -> bytes:
    return body + filler * ((most - len(body)) // len(filler))


def header(*fields: bytes) -> bytes:
    return b"\x82" + key("uid") + b"\1" + b"".join(fields)


HOSTILE_HEADERS = {
    "the same key again": largest(
        b"\xdf" + (LARGEST_MESSAGE // 5 - 1).to_bytes(4), key("uid") + b"\1", LARGEST_MESSAGE
    ),
    "a key without end": largest(b"\x81\xdb" + (LARGEST_MESSAGE - 7).to_bytes(4), b"a", LARGEST_MESSAGE),
    "text of three widths": largest(
        header(key("label") + b"\xdb" + (LARGEST_MESSAGE - 24).to_bytes(4)), "𝄞".encode(), LARGEST_MESSAGE
    ),
    "many components": largest(
        header(key("principal") + b"\x82" + key("type") + b"\1" + key("components") + b"\xdd\0\x0f\0\0"),
        b"\xc4\0",
        LARGEST_MESSAGE,
    ),
    "many ranges": largest(header(key("default_of") + b"\xdd\0\x0f\0\0"), b"\xa0", LARGEST_MESSAGE),
    "arrays in arrays": largest(header(key("name")), b"\x91", LARGEST_MESSAGE),
    "empty maps": largest(b"\xdd\0\x0f\0\0", b"\x80", LARGEST_MESSAGE),
}


def decoding_time(decode: Any) -> float:
    """CPU seconds at best, because other programs disturb."""
    times = []
    for _ in range(3):
        begun = time.process_time()
        with suppress(FrameError, FrameTypeError, ControlError):
            decode()
        times.append(time.process_time() - begun)
    return min(times)


@pytest.mark.parametrize("body", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_no_header_takes_long_to_decode(body: bytes) -> None:
    """The largest header, with any contents, is refused or decoded within 50 ms."""
    assert len(body) <= LARGEST_MESSAGE
    with pytest.raises((FrameError, FrameTypeError)):
        HEADER.decode(body)
    assert decoding_time(lambda: HEADER.decode(body)) < 0.05


@pytest.mark.parametrize("filler", [b"\x80", b"\x91", b"\xa0", b"\x81\xa0", b"\xc0", "é".encode()])
def test_no_request_takes_long_to_decode(filler: bytes) -> None:
    """The same holds for the largest request, in the arguments and in the place of them."""
    begin = b"\x83" + key("version") + b"\1" + key("request") + key("list") + key("arguments")
    for body in (
        largest(begin + b"\xdc\xff\xff", filler, LARGEST_REQUEST),
        largest(begin, filler, LARGEST_REQUEST),
        largest(b"\xdc\xff\xff", filler, LARGEST_REQUEST),
    ):

        def read(body: bytes = body) -> None:
            envelope = read_envelope(body)
            read_arguments(envelope.arguments, REQUESTS["list"].arguments)

        with pytest.raises(ControlError):
            read()
        assert decoding_time(read) < 0.05


def test_the_largest_credential_is_decoded_quickly() -> None:
    body = encode(bytes(LARGEST_FRAME - 5))[4:]
    assert len(body) == LARGEST_FRAME
    assert decoding_time(lambda: BLOB.decode(body)) < 0.05


def test_frame_type_has_a_largest_size() -> None:
    """A header in a frame that may hold a credential is refused by its type's limit."""
    with pytest.raises(FrameError, match="larger than 1048576"):
        HEADER.decode(bytes(LARGEST_MESSAGE + 1))


@given(body=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    """Any bytes are decoded, or raise one of two exceptions."""
    for decode in (HEADER.decode, BLOB.decode):
        with suppress(FrameError, FrameTypeError):
            decode(body)
    with suppress(ControlError):
        read_envelope(body)
    for request in REQUESTS.values():
        with suppress(ControlError):
            read_arguments(body, request.arguments)
