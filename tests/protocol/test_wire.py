"""The basic types: every read stays within the message, and wrong lengths are found."""

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
def test_truncated_message_is_malformed(decode: Callable[[Reader], object], message: bytes) -> None:
    """A message that is cut off anywhere is malformed."""
    assert_every_prefix_refused(decode, message)


@pytest.mark.parametrize(
    ("decode", "message"), [row[1:] for row in DECODERS], ids=[row[0] for row in DECODERS]
)
def test_read_ends_with_its_value(decode: Callable[[Reader], object], message: bytes) -> None:
    """A read begins at the cursor and ends with its value: bytes after it are left."""
    reader = Reader(b"before" + message + b"behind", 6)
    decode(reader)
    assert reader.rest() == b"behind"
    assert reader.rest() == b""


@given(U32)
def test_number_is_big_endian_and_unsigned(value: int) -> None:
    """A number is four bytes, big-endian and unsigned."""
    assert Reader(u32(value)).u32() == value


@given(blob, blob)
def test_counted_bytes_round_trip(value: bytes, behind: bytes) -> None:
    """Counted bytes are read as packed."""
    assert pack_data(value) == data(value)
    assert Reader(pack_data(value) + behind).data() == value


@given(names, blob)
def test_name_ends_with_a_nul(value: bytes, behind: bytes) -> None:
    """A name is any bytes except NUL, ended by a NUL that is not part of it."""
    assert pack_name(value) == name(value)
    reader = Reader(pack_name(value) + behind)
    assert reader.name() == value
    assert reader.rest() == behind


def test_second_name_begins_after_the_nul() -> None:
    """The second name begins after the NUL of the first, also if one is empty."""
    reader = Reader(b"old\0\0new\0")
    assert [reader.name(), reader.name(), reader.name()] == [b"old", b"", b"new"]


@pytest.mark.parametrize("value", [b"\0", b"a\0", b"\0a", b"a\0b"])
def test_a_name_with_a_nul_cannot_be_packed(value: bytes) -> None:
    """A name with a NUL would be another one on the wire, and is refused."""
    with pytest.raises(FormatError):
        pack_name(value)


@pytest.mark.parametrize("message", [b"", b"20001", b"\xff" * 5000])
def test_name_that_does_not_end_is_malformed(message: bytes) -> None:
    """A name that does not end is malformed."""
    assert_refused(Reader.name, message)


def test_nul_before_the_cursor_ends_no_name() -> None:
    """A NUL before the cursor ends no name."""
    reader = Reader(b"a\0b")
    assert reader.name() == b"a"
    with pytest.raises(FormatError):
        reader.name()


@given(typed_lists, blob)
def test_list_is_returned_as_its_bytes(entries: list[tuple[int, bytes]], behind: bytes) -> None:
    """A list is returned as its bytes."""
    reader = Reader(typed_list(entries) + behind)
    assert reader.typed_list() == typed_list(entries)
    assert reader.rest() == behind


def test_number_of_entries_is_bounded() -> None:
    """A list of as many entries as are accepted is read; one more is refused, even if it is present."""
    longest = typed_list([(1, b"")] * MAX_LIST)
    assert Reader(longest).typed_list() == longest
    assert_refused(Reader.typed_list, typed_list([(1, b"")] * (MAX_LIST + 1)))


@pytest.mark.parametrize("length", [11, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1])
@pytest.mark.parametrize("decode", [Reader.data, Reader.skip_data])
def test_wrong_length_of_data_is_malformed(decode: Callable[[Reader], object], length: int) -> None:
    """A length beyond the message's end is malformed and allocates nothing."""
    assert_refused_cheaply(decode, u32(length) + b"ten bytes.")


@pytest.mark.parametrize("count", [2, 5, 2**31, 2**32 - 1])
def test_wrong_count_of_entries_is_malformed(count: int) -> None:
    """A list of more entries than are present is malformed and allocates nothing."""
    assert_refused_cheaply(Reader.typed_list, u32(count) + u16(1) + data(b"one"))


def test_wrong_length_of_an_entry_is_malformed() -> None:
    """An entry's length beyond the message's end is malformed."""
    assert_refused_cheaply(Reader.typed_list, u32(2) + u16(1) + data(b"one") + u16(2) + u32(2**32 - 1))


@given(st.binary(max_size=200))
def test_random_list_raises_only_format_errors(message: bytes) -> None:
    """Random bytes are a list or malformed, and the cursor never leaves the message."""
    reader = Reader(message)
    try:
        assert message.startswith(reader.typed_list())
    except FormatError:
        return
    assert reader.at <= len(message)
