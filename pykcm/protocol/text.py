"""Bytes from outside, made fit for a terminal or a log."""

_BACKSLASH = {"\\": "\\\\"}
_PRINCIPAL = _BACKSLASH | {"/": "\\/", "@": "\\@", "\0": "\\0", "\n": "\\n", "\t": "\\t", "\b": "\\b"}
_FIRST_SURROGATE = 0xDC00


def shown(value: bytes) -> str:
    r"""UTF-8 as it is; what is no text or cannot be seen as \xNN, and a backslash doubled."""
    return _escaped(value, _BACKSLASH)


def shown_in_principal(value: bytes) -> str:
    """A realm or component, with the separators quoted as krb5_unparse_name does."""
    return _escaped(value, _PRINCIPAL)


def _escaped(value: bytes, quoted: dict[str, str]) -> str:
    # A byte that is no UTF-8 becomes a lone surrogate of its value.
    text = value.decode("utf-8", "surrogateescape")
    return "".join([quoted.get(c) or (c if c.isprintable() else _number(ord(c))) for c in text])


def _number(codepoint: int) -> str:
    if _FIRST_SURROGATE <= codepoint < _FIRST_SURROGATE + 0x100:
        codepoint -= _FIRST_SURROGATE
    return f"\\x{codepoint:02x}" if codepoint <= 0xFF else f"\\u{codepoint:04x}"
