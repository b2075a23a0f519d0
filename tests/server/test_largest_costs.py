"""The largest cost of each operation at the default limits, as docs/reliability.md documents it.

The table says for how long one request of a user delays all others.
"""

import asyncio

import pytest

from pykcm.protocol.credential import parse_credential
from pykcm.protocol.messages import MAX_CREDENTIALS, pack_blobs
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Match, Tag
from pykcm.protocol.wire import MAX_PRINCIPAL_SIZE
from pykcm.server.operations import OPERATIONS, not_supported
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, LAST_SECOND, credential_bytes, data, peer, principal_bytes
from tests.server.asking import Server, answer, frame, unpack
from tests.server.largest_costs import (
    CONFIG,
    NOBODY,
    QUOTAS,
    UID,
    CostCounter,
    assert_documented,
    documented,
    fill,
    smallest,
)

NAME = b"1000:0\0"
OTHER = b"1000:1\0"
LONGEST = Principal(1, b"R" * (MAX_PRINCIPAL_SIZE - 17), (b"x",))
DOCUMENTED = documented("[A-Z_]+")


def tag(match_flags: int, number: int) -> bytes:
    """Matches credentials of the one server."""
    return match_flags.to_bytes(4) + Tag(NOBODY, NOBODY, number - 2**15).pack()


def largest_requests(uuids: list[bytes]) -> dict[int, bytes]:
    """The most expensive arguments of each opcode; `uuids`: those of the ccaches."""
    requests = {opcode: b"" for opcode, each in OPERATIONS.items() if each.run is not not_supported}
    named = [Opcode.GET_NAME, Opcode.RESOLVE, Opcode.DESTROY, Opcode.GET_PRINCIPAL, Opcode.GET_CRED_UUID_LIST]
    named += [Opcode.SET_DEFAULT_CACHE, Opcode.GET_KDC_OFFSET, Opcode.GET_CRED_LIST]
    many = pack_blobs([smallest(number + 10_000) for number in range(MAX_CREDENTIALS)])
    last = CONFIG.max_ccache_credentials - 1
    return requests | {
        **dict.fromkeys(named, NAME),
        Opcode.INITIALIZE: NAME + principal_bytes(LONGEST),
        # A second ticket counts twice: all service tickets make room.
        Opcode.STORE: NAME + credential_bytes(NOBODY, NOBODY, second_ticket=bytes(2_090_000)),
        Opcode.RETRIEVE: NAME + tag(Match.KEYTYPE, last),
        Opcode.REMOVE_CRED: NAME + tag(0, 0),
        Opcode.GET_CRED_BY_UUID: NAME + bytes(16),
        Opcode.SET_FLAGS: NAME + bytes(4),
        Opcode.MOVE_CACHE: NAME + OTHER,
        Opcode.GET_CACHE_BY_UUID: uuids[-1],
        Opcode.SET_KDC_OFFSET: NAME + b"\0\0\0\7",
        Opcode.REPLACE: NAME + bytes(4) + principal_bytes(LONGEST) + many,
        Opcode.RENEW: NAME + data(tgt(last)) + tgt(last, LAST_SECOND, ticket=bytes(16_000)),
    }


def tgt(number: int, end: int = LAST_SECOND - 1, ticket: bytes = b"t") -> bytes:
    """One of many TGTs of one server."""
    return credential_bytes(enctype=number - 2**15, ticket=ticket, times=(1, 1, end, 0))


@pytest.fixture
def full(runner: asyncio.Runner, store: SQLCipherStore) -> Server:
    """A server on which a UID has as many ccaches and credentials as it may have."""
    server = Server(runner, store, quotas=QUOTAS)
    server.ask_as(UID).noop()
    server.ask_as(UID).get_cache_uuid_list()
    fill(server, UID, CONFIG.max_uid_ccaches)
    return server


def test_every_operation_is_documented() -> None:
    """The table has each supported operation, and no other."""
    supported = {Opcode(code).name for code, each in OPERATIONS.items() if each.run is not not_supported}
    assert DOCUMENTED.keys() == supported


@pytest.mark.parametrize("store", ["sqlcipher"], indirect=True)
@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_operation_costs_at_most_what_is_documented(full: Server, store: SQLCipherStore, name: str) -> None:
    """At the default limits an operation costs at most what the table says, and not much less."""
    uuids = full.ask_as(UID).get_cache_uuid_list()
    request = largest_requests(uuids)[Opcode[name]]
    if name == "RENEW":
        tgts = [parse_credential(tgt(number)) for number in range(CONFIG.max_ccache_credentials)]
        full.runner.run(full.change(UID, lambda each: each.replace(b"%d:0" % UID, ALICE, 0, tgts, None)))
    answers = []

    async def ask() -> None:
        answers.append(await answer(full.dispatcher, peer(UID), frame(Opcode[name], request)))

    with CostCounter(store) as counter:
        full.runner.run(ask())
    code, _ = unpack(answers[0])
    assert code == 0 or name == "GET_CRED_BY_UUID"
    assert_documented(counter.cost, DOCUMENTED[name])
