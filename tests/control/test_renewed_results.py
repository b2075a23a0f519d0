"""The request `renewed`: results that come together are written together, and answered in order."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec

from pykcm.control import renewal
from pykcm.control.calls import Call
from pykcm.control.messages import ControlError
from pykcm.control.renewal import take_renewed
from pykcm.engine.renewal_attempts import Failure, HandedBack


class FakeRenewals:
    """Stands for the engine: no result is written before `wanted` of them are being written."""

    def __init__(self, wanted: int) -> None:
        self.begun = 0
        self.most = 0
        self.cancelled = 0
        self._now = 0
        self._wanted = wanted
        self._all_begun = asyncio.Event()

    def start(self) -> "FakeRenewals":
        return self

    async def hand_back(self, id_: bytes, result: bytes | Failure) -> HandedBack:
        self.begun += 1
        self._now += 1
        self.most = max(self.most, self._now)
        if self.begun >= self._wanted:
            self._all_begun.set()
        try:
            await self._all_begun.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._now -= 1
        return HandedBack("renewed")


def frame(number: int) -> bytes:
    return msgspec.msgpack.encode({"id": bytes([number]) * 16, "credential": b"new"})


def call_with(renewals: FakeRenewals, *frames: bytes) -> Call:
    coming = iter(frames)

    async def receive() -> bytes | None:
        await asyncio.sleep(0)
        return next(coming, None)

    administration: Any = SimpleNamespace(renewals=renewals)
    peer: Any = None
    return Call(administration, peer, None, receive)


async def answers_of(call: Call) -> tuple[list[int], str]:
    """The numbers of the answered results, and the message of the error that ends the request."""
    numbers = []
    try:
        async for item in take_renewed(call):
            numbers.append(item["renewed"]["id"][0])  # noqa: PERF401 - those before an error count
    except ControlError as error:
        return numbers, error.message
    return numbers, ""


async def test_results_are_written_together_and_answered_in_order() -> None:
    """A result does not wait for the one before it; at most so many are written at the same time."""
    most = renewal._MOST_AT_A_TIME
    renewals = FakeRenewals(most)
    async with asyncio.timeout(60):
        numbers, _ = await answers_of(call_with(renewals, *map(frame, range(3 * most))))
    assert numbers == list(range(3 * most))
    assert renewals.most == most


async def test_results_before_a_malformed_one_are_answered_first() -> None:
    """A frame that is no result ends the request, when those before it have been answered."""
    call = call_with(FakeRenewals(2), frame(1), frame(2), msgspec.msgpack.encode({"id": 1}))
    numbers, message = await answers_of(call)
    assert numbers == [1, 2]
    assert message.startswith("not a valid result")


async def test_end_of_the_connection_ends_what_is_written() -> None:
    """When the client has gone, no task of its request stays."""
    renewals = FakeRenewals(99)
    task = asyncio.create_task(answers_of(call_with(renewals, frame(1), frame(2))))
    while renewals.begun < 2:  # noqa: ASYNC110 - any condition
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert renewals.cancelled == 2
