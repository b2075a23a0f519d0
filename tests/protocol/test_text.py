"""Bytes from outside, as shown in a terminal or a log."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.text import escape, escape_in_principal

both = pytest.mark.parametrize("show", [escape, escape_in_principal])


@both
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", ""),
        (b"20001:work", "20001:work"),
        (b"two words", "two words"),
        ("jürgen 日本".encode(), "jürgen 日本"),
        (b"a\\b", "a\\\\b"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"a\xc3", "a\\xc3"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\r\x7f", "\\x0d\\x7f"),
    ],
)
def test_escape_shows_text_and_escapes_the_rest(
    show: Callable[[bytes], str], value: bytes, text: str
) -> None:
    r"""Text is shown as it is, a backslash is doubled, and unprintable bytes are shown as \xNN."""
    assert show(value) == text


def test_long_bytes_are_shortened() -> None:
    """Of bytes longer than any name the beginning is shown, and the number of all."""
    assert escape(b"x" * 1024) == "x" * 1024
    assert escape(b"\0" * 1025) == "\\x00" * 1024 + "... (1025 bytes)"
    # Cut in the middle of a character.
    assert escape(b"x" * 1023 + "é".encode() * 2) == "x" * 1023 + "\\xc3... (1027 bytes)"


def test_separators_are_quoted_in_principals_only() -> None:
    """The separators of principals are quoted within one, and nowhere else."""
    assert escape(b"20001:a/b@c") == "20001:a/b@c"
    assert escape_in_principal(b"a/b@c\0\n\t\b") == "a\\/b\\@c\\0\\n\\t\\b"
    assert escape(b"\n\t\b") == "\\x0a\\x09\\x08"


@both
def test_escaped_byte_differs_from_the_same_characters(show: Callable[[bytes], str]) -> None:
    """An escaped byte is not shown like the four characters of its escape."""
    assert show(b"\xff") != show(rb"\xff")


@both
@given(st.binary(max_size=60))
def test_escaped_text_is_printable_on_one_line(show: Callable[[bytes], str], value: bytes) -> None:
    """Whatever the bytes are, the escaped text is printable, can be encoded, and is one line."""
    text = show(value)
    assert text.isprintable()
    assert text.encode().decode() == text
