"""Bytes from outside, as they are shown in a terminal or a log."""

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
def test_text(show: Callable[[bytes], str], value: bytes, text: str) -> None:
    """Text is shown as it is, a backslash doubled, and what is no text or cannot be seen by its number."""
    assert show(value) == text


def test_only_the_beginning_of_what_is_long() -> None:
    """Of what is longer than any name the beginning is shown, and how long it is."""
    assert escape(b"x" * 1024) == "x" * 1024
    assert escape(b"\0" * 1025) == "\\x00" * 1024 + "... (1025 bytes)"
    # Cut in the middle of a character.
    assert escape(b"x" * 1023 + "é".encode() * 2) == "x" * 1023 + "\\xc3... (1027 bytes)"


def test_separators() -> None:
    """The separators of principals are quoted within one, and there alone."""
    assert escape(b"20001:a/b@c") == "20001:a/b@c"
    assert escape_in_principal(b"a/b@c\0\n\t\b") == "a\\/b\\@c\\0\\n\\t\\b"
    assert escape(b"\n\t\b") == "\\x0a\\x09\\x08"


@both
def test_a_byte_and_what_stands_for_it(show: Callable[[bytes], str]) -> None:
    """A byte that is no text is not shown like the four characters that stand for it."""
    assert show(b"\xff") != show(rb"\xff")


@both
@given(st.binary(max_size=60))
def test_nothing_does_anything_to_a_terminal(show: Callable[[bytes], str], value: bytes) -> None:
    """Whatever the bytes, what is shown can be printed, encoded and stays on its line."""
    text = show(value)
    assert text.isprintable()
    assert text.encode().decode() == text
