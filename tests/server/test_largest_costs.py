"""What each operation costs at most, counted in a collection that is as full as the default limits allow.

docs/reliability.md has a table of these costs, which says what other users wait for. Calls of functions are
counted, and instructions of SQLite's machine: no clock and no other program disturbs that.
"""

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.config import Config
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.messages import MAX_CREDENTIALS, pack_blobs
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Match, Tag
from pykcm.protocol.wire import MAX_PRINCIPAL_SIZE
from pykcm.server.operations import OPERATIONS, not_supported
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, LAST_SECOND, credential_bytes, peer, principal_bytes
from tests.server.asking import Server, answer, frame, unpack

TABLE = Path(__file__).parents[2] / "docs" / "reliability.md"
CONFIG = Config()
QUOTAS = Quotas(
    max_uid_ccaches=CONFIG.max_uid_ccaches,
    max_ccache_size=CONFIG.max_ccache_size * 1024,
    max_uid_size=CONFIG.max_uid_size * 1024,
    max_ccache_credentials=CONFIG.max_ccache_credentials,
    max_uid_credentials=CONFIG.max_uid_credentials,
)
UID = 1000
NAME = b"1000:0\0"
OTHER = b"1000:1\0"
NOBODY = Principal(0, b"", ())
LONGEST = Principal(1, b"R" * (MAX_PRINCIPAL_SIZE - 17), (b"x",))

_INSTRUCTIONS = 100
_PER_ROW = re.compile(r"^\| `([A-Z_]+)` \| ([^|]+) \| ([\d,]+) \| ([\d,]+) \|", re.MULTILINE)


def smallest(number: int, end: int = LAST_SECOND) -> bytes:
    """One of many service tickets of one server, as small as can be."""
    return credential_bytes(NOBODY, NOBODY, enctype=number - 2**15, key=b"", ticket=b"", times=(1, 1, end, 0))


def tag(match_flags: int, number: int) -> bytes:
    """Looks at all credentials of the one server."""
    return match_flags.to_bytes(4) + Tag(NOBODY, NOBODY, number - 2**15).pack()


def largest_requests(uuids: list[bytes]) -> dict[int, bytes]:
    """For each opcode the arguments that cost most; `uuids` are the ccaches'."""
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
    }


class Cost(NamedTuple):
    """`instructions`: of SQLite, in thousands."""

    calls: int
    instructions: int


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLCipherStore]:
    store = SQLCipherStore(tmp_path / "pykcm.db", Key(bytes(32), tmp_path))
    yield store
    store.close()


@pytest.fixture
def full(runner: asyncio.Runner, store: SQLCipherStore) -> Server:
    """A UID with as many ccaches and credentials as it may have."""
    server = Server(runner, store, quotas=QUOTAS)
    number = CONFIG.max_ccache_credentials
    credentials = [parse_credential(smallest(each)) for each in range(number)]

    def fill(collection: Any) -> None:
        for ccache in range(CONFIG.max_uid_ccaches):
            within = credentials if ccache < CONFIG.max_uid_credentials // number else []
            collection.replace(b"1000:%d" % ccache, ALICE, 0, within, None)

    server.ask_as(UID).noop()
    server.ask_as(UID).get_cache_uuid_list()
    runner.run(server.change(UID, fill))
    return server


def cost_of(store: SQLCipherStore, work: Callable[[], object]) -> Cost:
    calls = instructions = 0

    def count_call(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    def count_instructions() -> None:
        nonlocal instructions
        instructions += _INSTRUCTIONS

    store._db.set_progress_handler(count_instructions, _INSTRUCTIONS)
    sys.setprofile(count_call)
    try:
        work()
    finally:
        sys.setprofile(None)
        store._db.set_progress_handler(None, _INSTRUCTIONS)
    return Cost(calls, instructions // 1000)


def documented() -> dict[str, Cost]:
    rows = _PER_ROW.findall(TABLE.read_text())
    return {name: Cost(*(int(number.replace(",", "")) for number in costs)) for name, _, *costs in rows}


def test_every_operation_is_in_the_table() -> None:
    """The table has each operation that is supported, and no other."""
    supported = {Opcode(code).name for code, each in OPERATIONS.items() if each.run is not not_supported}
    assert documented().keys() == supported


@pytest.mark.parametrize("name", sorted(documented()))
def test_no_operation_costs_more(full: Server, store: SQLCipherStore, name: str) -> None:
    """At the default limits an operation costs at most what the table says, and that is no idle number."""
    uuids = full.ask_as(UID).get_cache_uuid_list()
    request = largest_requests(uuids)[Opcode[name]]
    # What is made when it is first needed counts as well.
    answers = []

    async def ask() -> None:
        answers.append(await answer(full.dispatcher, peer(UID), frame(Opcode[name], request)))

    cost = cost_of(store, lambda: full.runner.run(ask()))
    code, _ = unpack(answers[0] if isinstance(answers[0], bytes) else b"".join(answers[0].pieces))
    assert code == 0 or name == "GET_CRED_BY_UUID"
    most = documented()[name]
    assert cost.calls <= most.calls, cost
    assert cost.instructions <= most.instructions, cost
    assert most.calls <= 2 * cost.calls + 200, cost
    assert most.instructions <= 2 * cost.instructions + 4, cost
