"""Bytes from outside, made fit for a terminal or a log."""

import re

_BACKSLASH = {"\\": "\\\\"}
_PRINCIPAL = _BACKSLASH | {"/": "\\/", "@": "\\@", "\0": "\\0", "\n": "\\n", "\t": "\\t", "\b": "\\b"}


_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")

# In bytes. A name that is longer is nobody's, but may be as long as a request is.
_LONGEST_SHOWN = 1024


def shown(value: bytes) -> str:
    r"""UTF-8 as it is; what is no text or cannot be seen as \xNN, and a backslash doubled.

    Of more than 1,024 bytes the first ones, and how many there are.
    """
    if len(value) > _LONGEST_SHOWN:
        return f"{_escaped(value[:_LONGEST_SHOWN], _BACKSLASH)}... ({len(value)} bytes)"
    return _escaped(value, _BACKSLASH)


def meant(text: str) -> bytes:
    """The bytes that `shown` shows as this text; what it shows nothing as stands for itself."""
    raw = text.encode("utf-8", "surrogateescape")
    value = _ESCAPE.sub(lambda found: b"\\" if found[1] is None else bytes.fromhex(found[1].decode()), raw)
    return value if _escaped(value, _BACKSLASH) == text else raw


def shown_in_principal(value: bytes) -> str:
    """A realm or component, with the separators quoted as krb5_unparse_name does."""
    return _escaped(value, _PRINCIPAL)


def _escaped(value: bytes, quoted: dict[str, str]) -> str:
    # A byte that is no UTF-8 becomes a lone surrogate, and that byte again when it is encoded.
    text = value.decode("utf-8", "surrogateescape")
    return "".join([quoted.get(c) or (c if c.isprintable() else _numbers(c)) for c in text])


def _numbers(character: str) -> str:
    return "".join([f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape")])
