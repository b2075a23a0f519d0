"""CBOR sequences (RFC 8742) from a stream; each item is bounded before it is decoded."""

from collections.abc import Iterator
from typing import Any

import cbor2

_MAJOR_BYTES, _MAJOR_TEXT, _MAJOR_ARRAY, _MAJOR_MAP, _MAJOR_TAG = 2, 3, 4, 5, 6
_DEEPEST = 16

# In bytes; exports have no longer text. cbor2 before 5.7.1 reads beyond its buffer when it decodes longer
# text (CVE-2025-64076).
LONGEST_TEXT = 65_536

# In all arrays and maps of an item together. A decoded element takes many times the memory of its encoding.
# The smallest credentials of this number have 64 MiB.
MOST_ELEMENTS = 1 << 20


class ItemsError(Exception):
    """The bytes are not an accepted item; the message gives the reason, and quotes none of them."""


def encode(item: Any) -> bytes:
    encoded: bytes = cbor2.dumps(item)
    return encoded


class ItemReader:
    """Reads pieces of a stream, and returns the complete items.

    An item may have `largest` bytes, texts of 65,536 bytes, arrays and maps nested 16 deep, and
    `most_elements` elements in all of these. Indefinite lengths and tags are refused: exports have none.

    These bounds also avoid the faults of cbor2 before 5.9: with long text, with deep nesting
    (CVE-2026-26209), and with shared values, which are tags (CVE-2025-68131).
    """

    def __init__(self, largest: int, most_elements: int = MOST_ELEMENTS) -> None:
        self._largest = largest
        self._most_elements = most_elements
        self._buffer = bytearray()
        self._start_item()

    def _start_item(self) -> None:
        self._at = 0
        # The number of missing elements in each array and map that has begun.
        self._open: list[int] = []
        self._elements = 0

    @property
    def size(self) -> int:
        """The number of bytes that do not belong to a returned item."""
        return len(self._buffer)

    @property
    def has_begun(self) -> bool:
        """Whether there is a part of an item."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Any]:
        """Return the items that `data` completes; raises ItemsError, after which nothing more can be read."""
        return [item for _, item in self.feed_packed(data)]

    def feed_packed(self, data: bytes) -> Iterator[tuple[bytes, Any]]:
        """Yield the items that `data` completes, each with its encoding; raises ItemsError."""
        self._buffer += data
        while self._walk():
            packed = bytes(self._buffer[: self._at])
            del self._buffer[: self._at]
            self._start_item()
            yield packed, _decode(packed)

    def _walk(self) -> bool:
        """Skip complete heads and strings; returns whether the item is complete."""
        buffer = self._buffer
        while True:
            if self._at > self._largest:
                raise ItemsError(f"larger than {self._largest} bytes")
            head = self._head()
            if head is None:
                return False
            major, value, after = head
            if major in {_MAJOR_BYTES, _MAJOR_TEXT}:
                after += value
                if after > self._largest:
                    raise ItemsError(f"larger than {self._largest} bytes")
                if major == _MAJOR_TEXT and value > LONGEST_TEXT:
                    raise ItemsError(f"text of more than {LONGEST_TEXT} bytes")
                if after > len(buffer):
                    return False
            self._at = after
            if major in {_MAJOR_ARRAY, _MAJOR_MAP} and value:
                self._begin(value if major == _MAJOR_ARRAY else 2 * value)
            elif self._is_last():
                return True

    def _head(self) -> tuple[int, int, int] | None:
        """Return the major type, the value and the end of the head; None while it is incomplete."""
        buffer, at = self._buffer, self._at
        if at >= len(buffer):
            return None
        major, information = buffer[at] >> 5, buffer[at] & 31
        if major == _MAJOR_TAG or information > 27:
            raise ItemsError("a tag or an indefinite length")
        if information < 24:
            return major, information, at + 1
        after = at + 1 + (1 << (information - 24))
        if after > len(buffer):
            return None
        return major, int.from_bytes(buffer[at + 1 : after]), after

    def _begin(self, number: int) -> None:
        # Each element takes at least one byte.
        if number > self._largest - self._at:
            raise ItemsError(f"larger than {self._largest} bytes")
        self._elements += number
        if self._elements > self._most_elements:
            raise ItemsError(f"more than {self._most_elements} elements")
        if len(self._open) >= _DEEPEST:
            raise ItemsError(f"nested deeper than {_DEEPEST}")
        self._open.append(number)

    def _is_last(self) -> bool:
        """Count one item and the arrays and maps that it completes; returns whether all are complete."""
        while self._open:
            self._open[-1] -= 1
            if self._open[-1]:
                return False
            self._open.pop()
        return True


def _decode(packed: bytes) -> Any:
    try:
        return cbor2.loads(packed)
    except (cbor2.CBORDecodeError, TypeError, RecursionError) as error:
        raise ItemsError(f"not CBOR: {type(error).__name__}") from None
