"""One request and one reply of each operation, packed and as values."""

from typing import Any, NamedTuple

import pytest

from pykcm.protocol.credential import parse_credential
from pykcm.protocol.messages import (
    ARGUMENTS,
    PAYLOAD,
    Field,
    read_arguments,
)
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag
from tests.protocol.bad_input import (
    Decoder,
)
from tests.protocol.layouts import (
    ALICE,
    BOB,
    HOST,
    REALM,
    CredentialFields,
    TagFields,
    blobs,
    i32,
    name,
    u16,
    u32,
)

CCACHE = b"20001:work"
ONE = CredentialFields().pack()
TWO = CredentialFields(server=BOB, second_ticket=b"a second ticket").pack()
HOW = 0x00800001
ALICES = Principal(1, REALM, (b"alice",))
SECOND_TICKETS = TagFields(server=HOST, second_ticket=b"a ticket")


class Case(NamedTuple):
    """A request's arguments, as they are packed and as an operation gets them."""

    packed: bytes
    values: list[Any]


REQUESTS: dict[Opcode, Case] = {
    Opcode.NOOP: Case(b"", []),
    Opcode.GET_NAME: Case(name(CCACHE), [CCACHE]),
    Opcode.RESOLVE: Case(name(CCACHE), [CCACHE]),
    Opcode.GEN_NEW: Case(b"", []),
    Opcode.INITIALIZE: Case(name(CCACHE) + ALICE, [CCACHE, ALICES]),
    Opcode.DESTROY: Case(name(CCACHE), [CCACHE]),
    Opcode.STORE: Case(name(CCACHE) + ONE, [CCACHE, parse_credential(ONE)]),
    Opcode.RETRIEVE: Case(
        name(CCACHE) + u32(HOW) + SECOND_TICKETS.pack(),
        [
            CCACHE,
            HOW,
            Tag(server=Principal(3, REALM, (b"host", b"www.example.test")), second_ticket=b"a ticket"),
        ],
    ),
    Opcode.GET_PRINCIPAL: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_CRED_UUID_LIST: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_CRED_BY_UUID: Case(name(CCACHE) + bytes(range(16)), [CCACHE, bytes(range(16))]),
    Opcode.REMOVE_CRED: Case(
        name(CCACHE) + u32(0) + TagFields(client=ALICE).pack(), [CCACHE, 0, Tag(ALICES)]
    ),
    Opcode.SET_FLAGS: Case(name(CCACHE) + u32(2), [CCACHE, 2]),
    Opcode.MOVE_CACHE: Case(name(b"20001:old") + name(b"20001:new"), [b"20001:old", b"20001:new"]),
    Opcode.GET_CACHE_UUID_LIST: Case(b"", []),
    Opcode.GET_CACHE_BY_UUID: Case(bytes(range(16)), [bytes(range(16))]),
    Opcode.GET_DEFAULT_CACHE: Case(b"", []),
    Opcode.SET_DEFAULT_CACHE: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_KDC_OFFSET: Case(name(CCACHE), [CCACHE]),
    Opcode.SET_KDC_OFFSET: Case(name(CCACHE) + i32(-300), [CCACHE, -300]),
    Opcode.GET_CRED_LIST: Case(name(CCACHE), [CCACHE]),
    Opcode.REPLACE: Case(
        name(CCACHE) + i32(-300) + ALICE + blobs([ONE, TWO]),
        [CCACHE, -300, ALICES, [parse_credential(ONE), parse_credential(TWO)]],
    ),
    Opcode.RENEW: Case(name(CCACHE) + u32(len(ONE)) + ONE + TWO, [CCACHE, ONE, parse_credential(TWO)]),
}


# The payload of a successful reply, as it is packed and as a client gets it.
REPLIES: dict[Opcode, Case] = {
    Opcode.GET_NAME: Case(name(CCACHE), [CCACHE]),
    Opcode.GEN_NEW: Case(name(b"20001:x1y2z3"), [b"20001:x1y2z3"]),
    Opcode.RETRIEVE: Case(ONE, [ONE]),
    Opcode.GET_PRINCIPAL: Case(ALICE, [ALICES]),
    Opcode.GET_CRED_UUID_LIST: Case(
        bytes(range(48)), [[bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))]]
    ),
    Opcode.GET_CRED_BY_UUID: Case(TWO + b"\0", [TWO + b"\0"]),
    Opcode.GET_CACHE_UUID_LIST: Case(bytes(range(16)), [[bytes(range(16))]]),
    Opcode.GET_CACHE_BY_UUID: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_DEFAULT_CACHE: Case(name(b"20001"), [b"20001"]),
    Opcode.GET_KDC_OFFSET: Case(i32(-300), [-300]),
    Opcode.GET_CRED_LIST: Case(blobs([ONE, TWO]), [[ONE, TWO]]),
}


UNSUPPORTED = {
    Opcode.CHOWN,
    Opcode.CHMOD,
    Opcode.GET_INITIAL_TICKET,
    Opcode.GET_TICKET,
    Opcode.ADD_NTLM_CRED,
    Opcode.HAVE_NTLM_CRED,
    Opcode.DEL_NTLM_CRED,
    Opcode.DO_NTLM_AUTH,
    Opcode.GET_NTLM_USER_LIST,
}


every_request = pytest.mark.parametrize("opcode", REQUESTS, ids=lambda opcode: opcode.name)
every_reply = pytest.mark.parametrize("opcode", REPLIES, ids=lambda opcode: opcode.name)


def message(opcode: int, arguments: bytes) -> bytes:
    """A request without its length."""
    return b"\2\0" + u16(opcode) + arguments


def as_decoder(opcode: Opcode) -> Decoder:
    """Reading this opcode's arguments, for a reader that holds them alone."""
    return lambda reader: read_arguments(ARGUMENTS[opcode], message(opcode, reader.rest()))


def payload_of(opcode: Opcode) -> Field:
    field = PAYLOAD[opcode]
    assert field is not None
    return field
