"""The basic types: every read stays within the message, and every lie is found out."""

from collections.abc import Callable
from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.wire import MAX_LIST, FormatError, Reader, pack_data, pack_name
from tests.builders import data, typed_list
from tests.protocol.bad_input import assert_every_prefix_refused, assert_refused, assert_refused_cheaply
from tests.protocol.layouts import name, u16, u32
from tests.protocol.strategies import U32, blob, names, typed_lists

PAIR = Struct(">hI")

DECODERS: list[tuple[str, Callable[[Reader], object], bytes]] = [
    ("u32", Reader.u32, u32(7)),
    ("struct", lambda reader: reader.unpack(PAIR), PAIR.pack(-1, 2)),
    ("take", lambda reader: reader.take(5), b"12345"),
    ("data", Reader.data, data(b"some bytes")),
    ("skipped data", Reader.skip_data, data(b"some bytes")),
    ("name", Reader.name, name(b"20001")),
    ("list", Reader.typed_list, typed_list([(1, b"one"), (2, b""), (3, b"three")])),
]


@pytest.mark.parametrize(
    ("decode", "message"), [row[1:] for row in DECODERS], ids=[row[0] for row in DECODERS]
)
def test_a_message_that_ends_early(decode: Callable[[Reader], object], message: bytes) -> None:
    """Whatever is cut off is malformed, wherever it is cut."""
    assert_every_prefix_refused(decode, message)


@pytest.mark.parametrize(
    ("decode", "message"), [row[1:] for row in DECODERS], ids=[row[0] for row in DECODERS]
)
def test_where_a_read_ends(decode: Callable[[Reader], object], message: bytes) -> None:
    """A read begins where it is told to and ends with its value: what is behind stays unread."""
    reader = Reader(b"before" + message + b"behind", 6)
    decode(reader)
    assert reader.rest() == b"behind"
    assert reader.rest() == b""


@given(U32)
def test_numbers(value: int) -> None:
    """A number is four bytes, the greatest first, and unsigned."""
    assert Reader(u32(value)).u32() == value


@given(blob, blob)
def test_data(value: bytes, behind: bytes) -> None:
    """Counted bytes come back as they went in."""
    assert pack_data(value) == data(value)
    assert Reader(pack_data(value) + behind).data() == value


@given(names, blob)
def test_names(value: bytes, behind: bytes) -> None:
    """A name is any bytes but NUL, ended by a NUL that is no part of it."""
    assert pack_name(value) == name(value)
    reader = Reader(pack_name(value) + behind)
    assert reader.name() == value
    assert reader.rest() == behind


def test_two_names() -> None:
    """The second name begins behind the NUL of the first, also when one is empty."""
    reader = Reader(b"old\0\0new\0")
    assert [reader.name(), reader.name(), reader.name()] == [b"old", b"", b"new"]


@pytest.mark.parametrize("value", [b"\0", b"a\0", b"\0a", b"a\0b"])
def test_a_name_with_a_nul_cannot_be_packed(value: bytes) -> None:
    """A name with a NUL would be another one on the wire, and is refused."""
    with pytest.raises(FormatError):
        pack_name(value)


@pytest.mark.parametrize("message", [b"", b"20001", b"\xff" * 5000])
def test_a_name_without_nul(message: bytes) -> None:
    """A name that does not end is malformed."""
    assert_refused(Reader.name, message)


def test_a_name_before_the_cursor() -> None:
    """A NUL in front of the cursor ends no name."""
    reader = Reader(b"a\0b")
    assert reader.name() == b"a"
    with pytest.raises(FormatError):
        reader.name()


@given(typed_lists, blob)
def test_lists(entries: list[tuple[int, bytes]], behind: bytes) -> None:
    """A list is given as the bytes that it stands in."""
    reader = Reader(typed_list(entries) + behind)
    assert reader.typed_list() == typed_list(entries)
    assert reader.rest() == behind


def test_the_longest_list() -> None:
    """A list of as many entries as are accepted is read, one of more is refused though it is all there."""
    longest = typed_list([(1, b"")] * MAX_LIST)
    assert Reader(longest).typed_list() == longest
    assert_refused(Reader.typed_list, typed_list([(1, b"")] * (MAX_LIST + 1)))


@pytest.mark.parametrize("length", [11, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1])
@pytest.mark.parametrize("decode", [Reader.data, Reader.skip_data])
def test_a_length_that_lies(decode: Callable[[Reader], object], length: int) -> None:
    """A length beyond the message's end is malformed and costs nothing."""
    assert_refused_cheaply(decode, u32(length) + b"ten bytes.")


@pytest.mark.parametrize("count", [2, 5, 2**31, 2**32 - 1])
def test_a_count_that_lies(count: int) -> None:
    """A list of more entries than there are is malformed and costs nothing."""
    assert_refused_cheaply(Reader.typed_list, u32(count) + u16(1) + data(b"one"))


def test_a_list_whose_entry_lies() -> None:
    """An entry's length beyond the message's end is malformed."""
    assert_refused_cheaply(Reader.typed_list, u32(2) + u16(1) + data(b"one") + u16(2) + u32(2**32 - 1))


@given(st.binary(max_size=200))
def test_random_lists(message: bytes) -> None:
    """Random bytes are a list or malformed, and the cursor never leaves the message."""
    reader = Reader(message)
    try:
        assert message.startswith(reader.typed_list())
    except FormatError:
        return
    assert reader.at <= len(message)
