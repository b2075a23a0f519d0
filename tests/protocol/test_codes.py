"""Reply codes and opcodes: the numbers that clients know."""

import errno

import pytest

from pykcm.protocol.codes import Code, KcmError, name_of
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.wire import FormatError

BASE = -1765328384


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("OK", 0),
        ("CC_BADNAME", -1765328245),
        ("CC_NOTFOUND", -1765328243),
        ("CC_END", -1765328242),
        ("CC_IO", -1765328191),
        ("FCC_PERM", -1765328190),
        ("FCC_NOFILE", -1765328189),
        ("FCC_INTERNAL", -1765328188),
        ("CC_FORMAT", -1765328185),
        ("CC_NOSUPP", -1765328137),
    ],
)
def test_numbers_of_codes(code: str, number: int) -> None:
    """Each code has libkrb5's number, which is in its error table and in an i32."""
    assert Code[code] == number
    assert number == 0 or BASE <= number < BASE + 256


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (-1765328189, "FCC_NOFILE"),
        (0, "OK"),
        (errno.EDQUOT, "EDQUOT"),
        (errno.ENOSPC, "ENOSPC"),
        (-1765328384, "-1765328384"),
        (99999, "99999"),
    ],
)
def test_names_of_codes(code: int, name: str) -> None:
    """A code is shown by its name, a system errno by its own, any other one by its number."""
    assert name_of(code) == name


def test_an_error_carries_its_code_and_reason() -> None:
    """A KcmError has the code as a number, and reads as code and reason."""
    error = KcmError(Code.FCC_PERM, "not yours")
    assert error.code == -1765328190
    assert str(error) == "FCC_PERM: not yours"
    assert str(KcmError(errno.EDQUOT)) == "EDQUOT"


def test_format_error_is_answered_as_cc_format() -> None:
    """A FormatError is a KcmError, and its code is CC_FORMAT."""
    error = FormatError("too short")
    assert isinstance(error, KcmError)
    assert error.code == Code.CC_FORMAT


def test_numbers_of_opcodes() -> None:
    """Every operation has the number that clients send, and there are no others."""
    assert {opcode.name: opcode.value for opcode in Opcode} == {
        "NOOP": 0,
        "GET_NAME": 1,
        "RESOLVE": 2,
        "GEN_NEW": 3,
        "INITIALIZE": 4,
        "DESTROY": 5,
        "STORE": 6,
        "RETRIEVE": 7,
        "GET_PRINCIPAL": 8,
        "GET_CRED_UUID_LIST": 9,
        "GET_CRED_BY_UUID": 10,
        "REMOVE_CRED": 11,
        "SET_FLAGS": 12,
        "CHOWN": 13,
        "CHMOD": 14,
        "GET_INITIAL_TICKET": 15,
        "GET_TICKET": 16,
        "MOVE_CACHE": 17,
        "GET_CACHE_UUID_LIST": 18,
        "GET_CACHE_BY_UUID": 19,
        "GET_DEFAULT_CACHE": 20,
        "SET_DEFAULT_CACHE": 21,
        "GET_KDC_OFFSET": 22,
        "SET_KDC_OFFSET": 23,
        "ADD_NTLM_CRED": 24,
        "HAVE_NTLM_CRED": 25,
        "DEL_NTLM_CRED": 26,
        "DO_NTLM_AUTH": 27,
        "GET_NTLM_USER_LIST": 28,
        "GET_CRED_LIST": 13001,
        "REPLACE": 13002,
        "RENEW": 28001,
    }
