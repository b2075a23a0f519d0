"""CBOR sequences read from a stream."""

from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.cli.cbor import ItemReader, ItemsError, encode

LARGEST = 1000

plain = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False)
values = st.recursive(
    plain | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(items=st.lists(values, max_size=4), cuts=st.lists(st.integers(0, 400), max_size=5))
def test_items_are_decoded_from_any_pieces(items: list[Any], cuts: list[int]) -> None:
    """Items are decoded unchanged, for every division of the stream into pieces."""
    stream = b"".join(map(encode, items))
    ends = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})
    reader = ItemReader(100_000)
    out: list[Any] = []
    for start, end in pairwise(ends):
        out += reader.feed(stream[start:end])
    assert out == items
    assert not reader.has_begun


@pytest.mark.parametrize(
    "stream",
    [
        b"\x5a\x00\x00\x03\xe4",  # a string that ends just above the limit
        b"\x5b" + b"\xff" * 8,
        b"\x9b" + b"\xff" * 8,
        b"\xbb" + b"\xff" * 8,
        b"\x9a\x00\x01\x00\x00",
        b"\x82\x59\x03\xe0" + bytes(992) + b"\x44abcd",
    ],
)
def test_too_large_item_is_refused(stream: bytes) -> None:
    """A length above the limit is refused as soon as it is read, before its content."""
    with pytest.raises(ItemsError, match="larger than 1000"):
        ItemReader(LARGEST).feed(stream)


def test_item_of_the_maximum_size_is_accepted() -> None:
    """An item of exactly the maximum size is accepted."""
    value = bytes(LARGEST - 3)
    assert ItemReader(LARGEST).feed(encode(value)) == [value]


@pytest.mark.parametrize("lead", [b"\x81", b"\xa1\x00"])
def test_too_deep_item_is_refused(lead: bytes) -> None:
    """Sixteen nested arrays and maps are accepted, and no more."""
    assert len(ItemReader(LARGEST).feed(lead * 16 + b"\x00")) == 1
    with pytest.raises(ItemsError, match="deeper"):
        ItemReader(LARGEST).feed(lead * 17)


def test_too_many_elements_are_refused() -> None:
    """A number of elements that would take gigabytes of memory is refused when it is read."""
    largest = 64 << 20
    most = b"\x9a\x00\x10\x00\x00" + bytes(1 << 20)
    assert len(ItemReader(largest).feed(most * 2)) == 2
    for head in (b"\x9a\x00\x10\x00\x01", b"\xba\x00\x08\x00\x01", b"\x82\x80\x9a\x00\x0f\xff\xff"):
        with pytest.raises(ItemsError, match="more than 1048576 elements"):
            ItemReader(largest).feed(head)


def test_allowed_number_of_elements_is_accepted() -> None:
    """The maximum number of elements can be lowered."""
    reader = ItemReader(LARGEST, most_elements=3)
    assert reader.feed(b"\x83\x00\x00\x00") == [[0, 0, 0]]
    with pytest.raises(ItemsError, match="more than 3 elements"):
        reader.feed(b"\x84")


def test_long_text_is_refused() -> None:
    """Text of 65,536 bytes is accepted; longer text is refused when its length is read."""
    largest = 1 << 20
    for character in ("a", "é", "日", "𝄞"):
        for lead in ("", "a", "aa", "aaa"):
            text = lead + character * ((65_536 - len(lead)) // len(character.encode()))
            assert ItemReader(largest).feed(encode(text)) == [text]
    for head in (b"\x7a\x00\x01\x00\x01", b"\xa1\x7a\x00\x01\x00\x01", b"\x7b" + bytes(5) + b"\x01\x00\x01"):
        with pytest.raises(ItemsError, match="text of more than 65536 bytes"):
            ItemReader(largest).feed(head)
    assert ItemReader(largest).feed(encode(bytes(65_537))) == [bytes(65_537)]


@pytest.mark.parametrize(
    "stream", [b"\xc2\x41\x01", b"\xd8\x1c\x80", b"\x5f", b"\x9f", b"\xbf", b"\xff", b"\x1c", b"\xfc"]
)
def test_tags_and_indefinite_lengths_are_refused(stream: bytes) -> None:
    """Tags and indefinite lengths are refused: exports have none."""
    with pytest.raises(ItemsError, match="tag or an indefinite"):
        ItemReader(LARGEST).feed(stream)


@pytest.mark.parametrize("stream", [b"\x61\xff", b"\xa1\x80\x00", b"\xf8\x10"])
def test_bytes_that_are_not_cbor_are_refused(stream: bytes) -> None:
    """A complete item that is not valid CBOR raises ItemsError or is decoded, and raises nothing else."""
    with suppress(ItemsError):
        ItemReader(LARGEST).feed(stream)


@given(stream=st.binary(max_size=200))
def test_random_bytes_are_refused_or_decoded(stream: bytes) -> None:
    """Random bytes raise ItemsError or are decoded, and raise nothing else."""
    with suppress(ItemsError):
        ItemReader(LARGEST).feed(stream)
