"""Escaping of bytes from outside for a terminal or a log."""

import os
import re
from functools import cache

_BACKSLASH = {"\\": "\\\\"}
_PRINCIPAL = _BACKSLASH | {"/": "\\/", "@": "\\@", "\0": "\\0", "\n": "\\n", "\t": "\\t", "\b": "\\b"}


_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")

# Invisible characters that Python considers printable: Unicode's Default_Ignorable_Code_Point, and the blank
# Braille pattern. Two names that differ only in them would look the same.
_INVISIBLE = (
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)

# In bytes. No ccache has a longer name, but a request may contain one.
_LONGEST_SHOWN = 1024


def escape(value: bytes) -> str:
    r"""Return UTF-8 as it is, unprintable bytes and characters as \xNN, and backslashes doubled.

    Of more than 1,024 bytes it shows the first ones and the number of all.
    """
    if len(value) > _LONGEST_SHOWN:
        return f"{_escaped(value[:_LONGEST_SHOWN], _BACKSLASH)}... ({len(value)} bytes)"
    return _escaped(value, _BACKSLASH)


def unescape(text: str) -> bytes:
    """Inverse of `escape`. Characters that `escape` never produces are kept."""
    raw = text.encode("utf-8", "surrogateescape")
    value = _ESCAPE.sub(lambda found: b"\\" if found[1] is None else bytes.fromhex(found[1].decode()), raw)
    return value if _escaped(value, _BACKSLASH) == text else raw


def printable(text: str) -> str:
    r"""Return the text as one line, with unprintable characters as \xNN.

    Backslashes stay as they are, so that escaped text does not change.
    """
    # Nearly all text is printable ASCII.
    if text.isprintable() and (text.isascii() or not _invisible().search(text)):
        return text
    return "".join([c if is_visible(c) else _hex_escape(c) for c in text])


def excerpt(text: str) -> str:
    """Return the beginning of a message that quotes data from outside, as one printable line."""
    return printable(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


def escape_path(path: str | os.PathLike[str]) -> str:
    """Escape a file name, which is bytes."""
    return escape(os.fsencode(path))


def escape_in_principal(value: bytes) -> str:
    """Escape a realm or component, with the separators quoted as krb5_unparse_name does."""
    return _escaped(value, _PRINCIPAL)


def _escaped(value: bytes, quoted: dict[str, str]) -> str:
    # A byte that is not UTF-8 becomes a lone surrogate, and the same byte when it is encoded.
    text = value.decode("utf-8", "surrogateescape")
    return "".join([quoted.get(c) or (c if is_visible(c) else _hex_escape(c)) for c in text])


def is_visible(character: str) -> bool:
    """Whether the character is visible and has no other effect."""
    return character.isprintable() and (character.isascii() or not _invisible().match(character))


@cache
def _invisible() -> re.Pattern[str]:
    # Compiled for the first text that is not ASCII: this takes 0.8 % of a start.
    return re.compile(_INVISIBLE)


def _hex_escape(character: str) -> str:
    r"""Return the bytes of one character as \xNN; a surrogate that stands for a byte is that byte."""
    try:
        raw = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = character.encode("utf-8", "surrogatepass")
    return "".join([f"\\x{byte:02x}" for byte in raw])
