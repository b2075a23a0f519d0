"""One operation at a time for each UID, in the order in which they came."""

import asyncio

from pykcm.server.lanes import Lanes
from tests.server.waiting import settle


async def pass_through(lanes: Lanes, uid: int, name: str, log: list[str], turns: int = 3) -> None:
    """Enter, stay for some turns of the loop, leave."""
    await lanes.enter(uid)
    log.append(f"{name} in")
    for _ in range(turns):
        await asyncio.sleep(0)
    log.append(f"{name} out")
    lanes.leave(uid)


def test_a_free_lane_is_entered_at_once() -> None:
    """Whoever finds the lane free has it without waiting; afterwards nothing is left of it."""
    lanes = Lanes()
    assert lanes.is_free(1000)
    assert list(lanes.enter(1000).__await__()) == []
    assert not lanes.is_free(1000)
    assert lanes.is_free(2000)
    lanes.leave(1000)
    assert lanes.is_free(1000)
    assert not lanes.occupied
    assert lanes._queues == {}


def test_one_at_a_time_in_order() -> None:
    """Those who wait get the lane one after the other, in the order in which they came."""

    async def scenario() -> None:
        lanes = Lanes()
        log: list[str] = []
        await asyncio.gather(*[pass_through(lanes, 1000, name, log) for name in "abcd"])
        assert log == [f"{name} {what}" for name in "abcd" for what in ("in", "out")]
        assert not lanes.occupied

    asyncio.run(scenario())


def test_handed_over_and_not_freed() -> None:
    """Between two in a row the lane is never free: nobody who comes then can slip in."""

    async def scenario() -> None:
        lanes = Lanes()
        log: list[str] = []
        await lanes.enter(1000)
        second = asyncio.create_task(pass_through(lanes, 1000, "second", log))
        await settle()
        lanes.leave(1000)
        assert not lanes.is_free(1000)
        assert log == []
        third = asyncio.create_task(pass_through(lanes, 1000, "third", log))
        await asyncio.gather(second, third)
        assert log == ["second in", "second out", "third in", "third out"]

    asyncio.run(scenario())


def test_lanes_beside_each_other() -> None:
    """A UID does not wait for another."""

    async def scenario() -> None:
        lanes = Lanes()
        log: list[str] = []
        await lanes.enter(1000)
        waiting = asyncio.create_task(pass_through(lanes, 1000, "waiting", log))
        await pass_through(lanes, 2000, "other", log)
        assert log == ["other in", "other out"]
        lanes.leave(1000)
        await waiting
        assert not lanes.occupied

    asyncio.run(scenario())


def test_one_that_gives_up() -> None:
    """One that is cancelled while it waits is passed over; the next gets the lane."""

    async def scenario() -> None:
        lanes = Lanes()
        log: list[str] = []
        await lanes.enter(1000)
        tasks = [asyncio.create_task(pass_through(lanes, 1000, name, log)) for name in "abc"]
        await settle()
        for gives_up in (tasks[0], tasks[1]):
            gives_up.cancel()
        await asyncio.wait(tasks[:2])
        lanes.leave(1000)
        await tasks[2]
        assert log == ["c in", "c out"]
        assert not lanes.occupied

    asyncio.run(scenario())


def test_only_one_that_gives_up() -> None:
    """The lane is free again when all who waited have given up."""

    async def scenario() -> None:
        lanes = Lanes()
        await lanes.enter(1000)
        task = asyncio.create_task(pass_through(lanes, 1000, "a", []))
        await settle()
        task.cancel()
        await asyncio.wait([task])
        lanes.leave(1000)
        assert not lanes.occupied

    asyncio.run(scenario())


def test_one_that_gives_up_when_it_is_its_turn() -> None:
    """One that is cancelled in the very moment of the hand-over does not keep the lane for ever."""

    async def scenario() -> None:
        lanes = Lanes()
        log: list[str] = []
        await lanes.enter(1000)
        first = asyncio.create_task(pass_through(lanes, 1000, "first", log))
        second = asyncio.create_task(pass_through(lanes, 1000, "second", log))
        await settle()
        lanes.leave(1000)
        first.cancel()
        await asyncio.wait([first])
        await settle()
        assert second.done()
        assert not lanes.occupied

    asyncio.run(scenario())
