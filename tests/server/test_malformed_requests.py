"""Requests with unknown opcodes, malformed arguments, or bytes after the last field."""

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.messages import ARGUMENTS
from pykcm.protocol.opcodes import Opcode
from pykcm.server.operations import OPERATIONS
from tests.builders import ALICE, HTTP, TGS, credential_bytes, data, principal_bytes
from tests.server.asking import Asking

pytestmark = pytest.mark.usefixtures("bytes_alone")

TICKET = credential_bytes(TGS)
HTTP_TICKET = credential_bytes(HTTP)
NAME_NUL = b"1000\0"
UNSUPPORTED = [13, 14, 15, 16, 24, 25, 26, 27, 28]


@pytest.mark.parametrize("opcode", UNSUPPORTED)
def test_known_but_unsupported_operations(alice: Asking, opcode: int) -> None:
    """CHOWN, CHMOD, the KDC's and NTLM's operations are known and not supported, with any arguments."""
    for arguments in (b"", NAME_NUL, b"\xff" * 100):
        assert alice.answer(opcode, arguments) == (Code.CC_NOSUPP, b"")


@pytest.mark.parametrize("opcode", [29, 100, 13000, 13003, 65535])
def test_unknown_opcode_is_answered(alice: Asking, opcode: int) -> None:
    """An unknown opcode is FCC_INTERNAL, so that the client falls back; the next request is served."""
    assert alice.answer(opcode, b"anything") == (Code.FCC_INTERNAL, b"")
    alice.noop()


def test_every_opcode_is_served() -> None:
    """Every opcode of the protocol is served, and each that has arguments has its layout."""
    assert set(OPERATIONS) == {int(opcode) for opcode in Opcode}
    assert set(ARGUMENTS) == set(OPERATIONS) - set(UNSUPPORTED)


MALFORMED = [
    *[
        (opcode, arguments)
        for opcode in sorted(ARGUMENTS)
        if OPERATIONS[opcode].names_ccache
        for arguments in (b"", b"1000", b"\xff" * 10)
    ],
    (Opcode.RENEW, NAME_NUL),
    (Opcode.RENEW, NAME_NUL + data(TICKET)[:-1]),
    (Opcode.RENEW, NAME_NUL + data(TICKET)),
    (Opcode.RENEW, NAME_NUL + data(TICKET) + TICKET[:-1]),
    (Opcode.INITIALIZE, NAME_NUL),
    (Opcode.INITIALIZE, NAME_NUL + b"\0\0\0\1"),
    (Opcode.INITIALIZE, NAME_NUL + principal_bytes(ALICE)[:-1]),
    (Opcode.INITIALIZE, NAME_NUL + b"\0\0\0\1\xff\xff\xff\xff\0\0\0\0"),
    (Opcode.STORE, NAME_NUL),
    (Opcode.STORE, NAME_NUL + TICKET[:-1]),
    (Opcode.STORE, NAME_NUL + TICKET[:40]),
    (Opcode.STORE, NAME_NUL + b"\xff" * 100),
    (Opcode.RETRIEVE, NAME_NUL),
    (Opcode.RETRIEVE, NAME_NUL + bytes(4)),
    (Opcode.RETRIEVE, NAME_NUL + bytes(8)),
    (Opcode.RETRIEVE, NAME_NUL + bytes(4) + b"\0\0\0\1" + bytes(10)),
    (Opcode.RETRIEVE, NAME_NUL + bytes(4) + b"\0\0\0\x20" + bytes(21) + b"\xff\xff\xff\xff"),
    (Opcode.REMOVE_CRED, NAME_NUL + bytes(8)),
    (Opcode.GET_CRED_BY_UUID, NAME_NUL + bytes(15)),
    (Opcode.SET_FLAGS, NAME_NUL + bytes(3)),
    (Opcode.MOVE_CACHE, NAME_NUL),
    (Opcode.MOVE_CACHE, NAME_NUL + b"1000:a"),
    (Opcode.GET_CACHE_BY_UUID, b""),
    (Opcode.GET_CACHE_BY_UUID, bytes(15)),
    (Opcode.SET_KDC_OFFSET, NAME_NUL + bytes(3)),
    (Opcode.REPLACE, NAME_NUL),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE)),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\1"),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\xff\xff\xff\xff" + data(TICKET)),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\2" + data(TICKET)),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\1" + data(TICKET[:-1])),
]


@pytest.mark.parametrize(("opcode", "arguments"), MALFORMED)
def test_malformed_arguments_are_refused(filled: Asking, opcode: int, arguments: bytes) -> None:
    """Truncated arguments and wrong lengths are CC_FORMAT, and change nothing."""
    assert filled.answer(opcode, arguments) == (Code.CC_FORMAT, b"")
    assert filled.get_cred_list(b"1000") == [TICKET, HTTP_TICKET]
    assert len(filled.get_cache_uuid_list()) == 1


@pytest.mark.parametrize(
    ("opcode", "arguments"),
    [
        (Opcode.NOOP, b""),
        (Opcode.GET_NAME, NAME_NUL),
        (Opcode.GET_PRINCIPAL, NAME_NUL),
        (Opcode.INITIALIZE, NAME_NUL + principal_bytes(ALICE)),
        (Opcode.RETRIEVE, NAME_NUL + bytes(4) + bytes(4) + bytes(21)),
        (Opcode.REMOVE_CRED, NAME_NUL + bytes(4) + bytes(4) + bytes(21)),
        (Opcode.GET_CACHE_UUID_LIST, b""),
        (Opcode.GET_DEFAULT_CACHE, b""),
        (Opcode.SET_KDC_OFFSET, NAME_NUL + bytes(4)),
        (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\1" + data(TICKET)),
    ],
)
@pytest.mark.parametrize("more", [b"\0", b"\0\0\0\0", b"\xff" * 40])
def test_bytes_after_the_last_field_are_ignored(
    filled: Asking, opcode: int, arguments: bytes, more: bytes
) -> None:
    """Bytes after the last field, as some clients add, change nothing about the answer."""
    assert filled.answer(opcode, arguments + more)[0] == 0
