"""Bytes from outside, made fit for a terminal or a log."""

import os
import re

_BACKSLASH = {"\\": "\\\\"}
_PRINCIPAL = _BACKSLASH | {"/": "\\/", "@": "\\@", "\0": "\\0", "\n": "\\n", "\t": "\\t", "\b": "\\b"}


_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")

# Characters that Python takes for printable and that show nothing: Unicode's Default_Ignorable_Code_Point,
# and the blank pattern of Braille. Two names that differ in them alone would look the same.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)

# In bytes. A name that is longer is nobody's, but may be as long as a request is.
_LONGEST_SHOWN = 1024


def escape(value: bytes) -> str:
    r"""UTF-8 as it is; what is no text or cannot be seen as \xNN, and a backslash doubled.

    Of more than 1,024 bytes the first ones, and how many there are.
    """
    if len(value) > _LONGEST_SHOWN:
        return f"{_escaped(value[:_LONGEST_SHOWN], _BACKSLASH)}... ({len(value)} bytes)"
    return _escaped(value, _BACKSLASH)


def unescape(text: str) -> bytes:
    """The bytes that `escape` shows as this text; what it shows nothing as stands for itself."""
    raw = text.encode("utf-8", "surrogateescape")
    value = _ESCAPE.sub(lambda found: b"\\" if found[1] is None else bytes.fromhex(found[1].decode()), raw)
    return value if _escaped(value, _BACKSLASH) == text else raw


def printable(text: str) -> str:
    r"""Text that is put together of several parts, with what cannot be seen as \xNN: it stays one line.

    Backslashes stay as they are, so that text which has been escaped does not change.
    """
    # Nearly all text is.
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join([c if is_visible(c) else _numbers(c) for c in text])


def excerpt(text: str) -> str:
    """The beginning of a message that quotes something from outside, as one printable line."""
    return printable(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


def escape_path(path: str | os.PathLike[str]) -> str:
    """A file's name, which is bytes."""
    return escape(os.fsencode(path))


def escape_in_principal(value: bytes) -> str:
    """A realm or component, with the separators quoted as krb5_unparse_name does."""
    return _escaped(value, _PRINCIPAL)


def _escaped(value: bytes, quoted: dict[str, str]) -> str:
    # A byte that is no UTF-8 becomes a lone surrogate, and that byte again when it is encoded.
    text = value.decode("utf-8", "surrogateescape")
    return "".join([quoted.get(c) or (c if is_visible(c) else _numbers(c)) for c in text])


def is_visible(character: str) -> bool:
    """Whether the character shows something and does nothing else."""
    return character.isprintable() and (character.isascii() or not _INVISIBLE.match(character))


def _numbers(character: str) -> str:
    """The bytes of one character; a lone surrogate that stands for a byte is that byte."""
    try:
        raw = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = character.encode("utf-8", "surrogatepass")
    return "".join([f"\\x{byte:02x}" for byte in raw])
