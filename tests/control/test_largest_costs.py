"""The largest cost of one step of each control request at the default limits, as docs/reliability.md has it.

While one step of the event loop runs, no client is served: the table says for how long administrators delay
users.
"""

import asyncio
from asyncio.events import Handle
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import pytest
from msgspec import Raw
from msgspec.msgpack import encode as packb

# The daemon imports it at the first request that needs it: the import must not count.
import pykcm.engine.renewals  # noqa: F401
from pykcm.control.calls import Call
from pykcm.control.frames import encode
from pykcm.control.messages import item, read_arguments
from pykcm.control.requests import REQUESTS
from pykcm.protocol.opcodes import Opcode
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, peer
from tests.control.controlling import Controlling
from tests.server.asking import Server, answer, frame
from tests.server.largest_costs import (
    CONFIG,
    FULL_CCACHES,
    QUOTAS,
    UID,
    Cost,
    CostCounter,
    assert_documented,
    documented,
    fill,
    smallest,
)

EXPIRED_UID = 1001
DOCUMENTED = documented("[a-z]+")


class StepCounter(CostCounter):
    """Counts what each step of the event loop costs, and keeps the largest."""

    def __init__(self, store: SQLCipherStore) -> None:
        super().__init__(store)
        self._largest = Cost(0, 0)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._end_step()

    def _count_call(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is Handle._run.__code__:
            self._end_step()
        self._calls += event in {"call", "c_call"}

    def _end_step(self) -> None:
        step, largest = super().cost, self._largest
        self._largest = Cost(max(largest.calls, step.calls), max(largest.instructions, step.instructions))
        self._calls = self._instructions = 0

    @property
    def cost(self) -> Cost:
        return self._largest


@pytest.fixture
def full(runner: asyncio.Runner, store: SQLCipherStore) -> Server:
    """A server on which a UID has as many ccaches and credentials as it may have, and many other UIDs."""
    server = Server(runner, store, quotas=QUOTAS)
    fill(server, UID, CONFIG.max_uid_ccaches)
    fill(server, EXPIRED_UID, FULL_CCACHES, end=1)
    server.clock.now = 2 * 86400
    for uid in range(2000, 2070):
        runner.run(server.change(uid, lambda each: each.initialize(b"%d" % each.uid, ALICE, None)))
    return server


def frames_of_import() -> list[bytes]:
    """More ccaches of one UID than are imported together, over the existing ones.

    Two of them are full: one change has to leave the second one to the next change.
    """
    number = CONFIG.max_ccache_credentials
    blobs = [packb(smallest(each + 10_000)) for each in range(number)]
    principal = {"type": 1, "realm": ALICE.realm, "components": list(ALICE.components)}
    frames = []
    for ccache in range(80):
        within = blobs if ccache < 2 else []
        header = {"uid": UID, "principal": principal, "credentials": len(within), "name": b"1000:%d" % ccache}
        frames += [packb(header), *within]
    return frames


ARGUMENTS: dict[str, dict[str, Any]] = {
    "show": {"name": b"1000:0", "payload": True},
    "destroy": {"uid": UID},
    "switch": {"uid": UID, "name": b"1000:7"},
    "import": {"replace": True},
}


async def answer_whole(server: Server, name: str, sent: list[bytes]) -> None:
    """Make the request and encode all that answers it, as a connection does; `sent` comes behind it."""
    frames = iter(sent)

    async def receive() -> bytes | None:
        await asyncio.sleep(0)
        return next(frames, None)

    found = REQUESTS[name]
    administration = Controlling(server).administration
    call = Call(
        administration,
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
        if name == "renewals":
            # The first client causes the search for TGTs. Counting makes it slow: it has pytest's time limit.
            while administration.renewals.start().is_searching:  # noqa: ASYNC110 - nobody tells its end
                await asyncio.sleep(0)
            return
        if name in {"watch", "trace"}:
            if isinstance(each, Raw):
                return
            await answer(server.dispatcher, peer(UID), frame(Opcode.DESTROY, b"1000:0\0"))


def test_every_request_is_documented() -> None:
    """The table has each request of the control socket, and no other."""
    assert DOCUMENTED.keys() == REQUESTS.keys()


@pytest.mark.parametrize("store", ["sqlcipher"], indirect=True)
@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_step_of_a_request_costs_at_most_what_is_documented(
    full: Server, store: SQLCipherStore, name: str
) -> None:
    """At the default limits no step of a request costs more than the table says, or much less."""
    sent = frames_of_import() if name == "import" else []
    with StepCounter(store) as counter:
        full.runner.run(answer_whole(full, name, sent))
    assert_documented(counter.cost, DOCUMENTED[name])
