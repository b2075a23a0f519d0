"""The reasons for which a renewal fails, from codes of libkrb5."""

import pytest

from pykcm.renew.failures import failure_of


@pytest.mark.parametrize(
    ("code", "reason", "again"),
    [
        (-1765328384 + 20, "revoked", False),
        (-1765328384 + 18, "locked", True),
        (-1765328384 + 60, "kdc", True),
        (1859794437, "kdc", True),
        (-1765328237, "kdc", True),
        (12, "internal", True),
    ],
    ids=["revoked", "locked", "generic", "no ASN.1", "answer to another request", "no memory"],
)
def test_codes_have_reasons(code: int, reason: str, again: bool) -> None:
    """A code of a KDC, or of an answer that libkrb5 cannot use, is a reason about the KDC."""
    error = failure_of(code, f"the words {code}")
    assert (error.reason, error.again, error.message, error.code) == (reason, again, "the words", code)
