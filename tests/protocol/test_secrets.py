"""The text of values with secrets, as in a traceback, a failed assertion or a log."""

import pytest

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.changes import CredentialWritten
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.framing import Frame, Pieces
from pykcm.protocol.tag import Tag
from tests.builders import ALICE, HTTP, credential_bytes

SECRETS = {"key": b"SECRET-KEY", "ticket": b"SECRET-TICKET", "second_ticket": b"SECRET-SECOND"}
BLOB = credential_bytes(HTTP, authdata=[(1, b"SECRET-AUTHDATA")], **SECRETS)  # type: ignore[arg-type]
CREDENTIAL = parse_credential(BLOB)
CCACHE = CCache(bytes(16), b"1000", ALICE)
CCACHE.credentials.put(bytes(16), CREDENTIAL)

VALUES = {
    "Frame": Frame(6, b"\2\0\0\6" + BLOB),
    "Pieces": Pieces(len(BLOB), [BLOB]),
    "Credential": CREDENTIAL,
    "Equality": CREDENTIAL.equality,
    "Tag": Tag(ALICE, HTTP, authdata=b"SECRET-AUTHDATA", second_ticket=b"SECRET-SECOND"),
    "CCache": CCACHE,
    "Credentials": CCACHE.credentials,
    "CredentialWritten": CredentialWritten(CCACHE, bytes(16), CREDENTIAL),
}


@pytest.mark.parametrize("name", VALUES)
def test_repr_and_exceptions_hold_no_secrets(name: str) -> None:
    """Neither a value's text nor that of an exception with it has a key, a ticket or authdata."""
    value = VALUES[name]
    for text in (repr(value), str(value), f"{value}", repr(KeyError(value)), repr([value])):
        assert "SECRET" not in text
        assert name in text


def test_repr_identifies_the_value() -> None:
    """The text of a value identifies it: the principals, and the size."""
    assert repr(VALUES["Frame"]) == f"<Frame of operation 6, {4 + len(BLOB)} bytes>"
    assert repr(VALUES["Pieces"]) == f"<Pieces of {len(BLOB)} bytes>"
    both = "alice@PYKCM.TEST for HTTP/www.pykcm.test@PYKCM.TEST"
    for name in ("Credential", "Equality", "Tag"):
        assert repr(VALUES[name]) == f"<{name} {both}>"
    assert repr(Tag()) == "<Tag anybody for anything>"
