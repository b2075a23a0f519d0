"""The longest step of each control request, counted at the default limits.

docs/reliability.md has a table of these costs. While one step of the event loop runs, nobody is served: the
table says how long administrators keep users waiting. Calls of functions are counted, and instructions of
SQLite's machine: no clock and no other program disturbs that.
"""

import asyncio
import re
import sys
from asyncio.events import Handle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

import pytest
from msgspec import Raw
from msgspec.msgpack import encode as packb

from pykcm.config import Config
from pykcm.control.calls import Call
from pykcm.control.frames import encode
from pykcm.control.messages import item, read_arguments
from pykcm.control.requests import REQUESTS
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.opcodes import Opcode
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, peer
from tests.control.controlling import Controlling
from tests.server.asking import Server, answer, frame
from tests.server.test_largest_costs import QUOTAS, smallest

TABLE = Path(__file__).parents[2] / "docs" / "reliability.md"
CONFIG = Config()
UID = 1000
EXPIRED_UID = 1001

_INSTRUCTIONS = 100
_PER_ROW = re.compile(r"^\| `([a-z]+)` \| ([^|]+) \| ([\d,]+) \| ([\d,]+) \|", re.MULTILINE)


class Cost(NamedTuple):
    """Of one step; `instructions`: of SQLite, in thousands."""

    calls: int
    instructions: int


class Steps:
    """Counts what each step of the event loop costs, and keeps the largest."""

    def __init__(self, store: SQLCipherStore) -> None:
        self._store = store
        self._calls = self._instructions = 0
        self.calls = self.instructions = 0

    def __enter__(self) -> Self:
        self._store._db.set_progress_handler(self._count_instructions, _INSTRUCTIONS)
        sys.setprofile(self._count_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._store._db.set_progress_handler(None, _INSTRUCTIONS)
        self._end_step()

    def _count_call(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is Handle._run.__code__:
            self._end_step()
        self._calls += event in {"call", "c_call"}

    def _count_instructions(self) -> None:
        self._instructions += _INSTRUCTIONS

    def _end_step(self) -> None:
        self.calls = max(self.calls, self._calls)
        self.instructions = max(self.instructions, self._instructions)
        self._calls = self._instructions = 0

    @property
    def largest(self) -> Cost:
        return Cost(self.calls, self.instructions // 1000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLCipherStore]:
    store = SQLCipherStore(tmp_path / "pykcm.db", Key(bytes(32), tmp_path / "key"))
    yield store
    store.close()


@pytest.fixture
def full(runner: asyncio.Runner, store: SQLCipherStore) -> Server:
    """A UID with as many ccaches and credentials as it may have, and many other UIDs."""
    server = Server(runner, store, quotas=QUOTAS)
    number = CONFIG.max_ccache_credentials
    credentials = [parse_credential(smallest(each)) for each in range(number)]
    expired = [parse_credential(smallest(each, end=1)) for each in range(number)]

    def fill(collection: Any) -> None:
        for ccache in range(CONFIG.max_uid_ccaches):
            within = credentials if ccache < CONFIG.max_uid_credentials // number else []
            collection.replace(b"1000:%d" % ccache, ALICE, 0, within, None)

    def fill_with_expired(collection: Any) -> None:
        for ccache in range(CONFIG.max_uid_credentials // number):
            collection.replace(b"1001:%d" % ccache, ALICE, 0, expired, None)

    runner.run(server.change(UID, fill))
    runner.run(server.change(EXPIRED_UID, fill_with_expired))
    server.clock.now = 2 * 86400
    for uid in range(2000, 2070):
        runner.run(server.change(uid, lambda each: each.initialize(b"%d" % each.uid, ALICE, None)))
    return server


def frames_of_import() -> list[bytes]:
    """As many ccaches of one UID as it may have, over those that are there, with the smallest credentials."""
    number = CONFIG.max_ccache_credentials
    blobs = [packb(smallest(each + 10_000)) for each in range(number)]
    principal = {"type": 1, "realm": ALICE.realm, "components": list(ALICE.components)}
    frames = []
    for ccache in range(80):
        within = blobs if ccache < CONFIG.max_uid_credentials // number else []
        header = {"uid": UID, "principal": principal, "credentials": len(within), "name": b"1000:%d" % ccache}
        frames += [packb(header), *within]
    return frames


ARGUMENTS: dict[str, dict[str, Any]] = {
    "show": {"name": b"1000:0", "payload": True},
    "destroy": {"uid": UID},
    "switch": {"uid": UID, "name": b"1000:7"},
    "import": {"replace": True},
}


async def answer_whole(server: Server, name: str) -> None:
    """Make the request and encode all that answers it, as a connection does."""
    frames = iter(frames_of_import() if name == "import" else [])

    async def receive() -> bytes | None:
        await asyncio.sleep(0)
        return next(frames, None)

    found = REQUESTS[name]
    call = Call(
        Controlling(server).administration,
        peer(0),
        read_arguments(packb(ARGUMENTS.get(name, {})), found.arguments),
        receive,
    )
    answered = found.run(call)
    if not isinstance(answered, AsyncIterator):
        await answered
        return
    async for each in answered:
        encode(item(each))
        await asyncio.sleep(0)
        if name in {"watch", "trace"}:
            if isinstance(each, Raw):
                return
            await answer(server.dispatcher, peer(UID), frame(Opcode.DESTROY, b"1000:0\0"))


def documented() -> dict[str, Cost]:
    rows = _PER_ROW.findall(TABLE.read_text())
    return {name: Cost(*(int(number.replace(",", "")) for number in costs)) for name, _, *costs in rows}


def test_every_request_is_in_the_table() -> None:
    """The table has each request of the control socket, and no other."""
    assert documented().keys() == REQUESTS.keys()


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_no_step_of_a_request_costs_more(full: Server, store: SQLCipherStore, name: str) -> None:
    """At the default limits no step costs more than the table says, and that is no idle number."""
    with Steps(store) as steps:
        full.runner.run(answer_whole(full, name))
    cost = steps.largest
    most = documented()[name]
    assert cost.calls <= most.calls, cost
    assert cost.instructions <= most.instructions, cost
    assert most.calls <= 2 * cost.calls + 200, cost
    assert most.instructions <= 2 * cost.instructions + 4, cost
