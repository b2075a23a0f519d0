"""The reasons for which a renewal fails, from the error codes of libkrb5 and of KDCs."""

from typing import NamedTuple

# The first code of libkrb5's table of errors. Its first 128 entries are the error codes of RFC 4120.
_FIRST = -1765328384
_OF_KDC = range(_FIRST, _FIRST + 128)

# libkrb5's table of errors in ASN.1: an answer that it cannot read.
_OF_ANSWERS = range(1859794432, 1859794432 + 32)

# In characters: the longest message that the daemon takes.
LONGEST_MESSAGE = 512


class RenewalError(Exception):
    """A TGT was not renewed. `code`: of libkrb5, or 0. `again`: whether a further attempt makes sense."""

    def __init__(self, reason: str, code: int, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
        self.message = message[:LONGEST_MESSAGE]
        self.again = again


class _Class(NamedTuple):
    reason: str
    again: bool = True


# By the error code of RFC 4120. An administrator may unlock a principal, or correct a clock: these are tried
# again. A ticket that is revoked, expired or not renewable stays so.
_BY_KDC_CODE = {
    1: _Class("locked"),  # the principal has expired
    12: _Class("kdc"),  # the KDC's policy
    13: _Class("not-renewable", again=False),  # "KDC can't fulfill requested option"
    18: _Class("locked"),
    20: _Class("revoked", again=False),
    21: _Class("locked"),  # the principal is not valid yet
    23: _Class("locked"),  # the password has expired
    29: _Class("unreachable"),  # the KDC cannot reach its database
    32: _Class("expired", again=False),
    33: _Class("clock"),  # the ticket is not yet valid
    37: _Class("clock"),
}

_BY_CODE = {
    -1765328228: _Class("unreachable"),  # KRB5_KDC_UNREACH
    -1765328230: _Class("unreachable"),  # KRB5_REALM_UNKNOWN: no KDC is configured or in the DNS
    -1765328164: _Class("unreachable"),  # KRB5_REALM_CANT_RESOLVE
    -1765328236: _Class("clock"),  # KRB5_KDCREP_SKEW
    -1765328237: _Class("kdc"),  # KRB5_KDCREP_MODIFIED: an answer to another request
    -1765328243: _Class("not-renewable", again=False),  # KRB5_CC_NOTFOUND: no TGT that libkrb5 renews
    -1765328185: _Class("not-renewable", again=False),  # KRB5_CC_FORMAT: no credential that libkrb5 can read
}


def kdc_code(code: int) -> int | None:
    """Return the error code of RFC 4120 for a code of libkrb5; None if no KDC has sent it."""
    return code - _FIRST if code in _OF_KDC else None


def failure_of(code: int, message: str) -> RenewalError:
    """Return the error for a code of libkrb5 and its message."""
    # The message of the exception ends with the code.
    words = message.removesuffix(str(code)).rstrip()
    number = kdc_code(code)
    found = _BY_CODE.get(code) if number is None else _BY_KDC_CODE.get(number)
    if found is None:
        is_of_kdc = number is not None or code in _OF_ANSWERS
        found = _Class("kdc" if is_of_kdc else "internal")
    return RenewalError(found.reason, code, words, again=found.again)
