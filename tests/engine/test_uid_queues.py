"""One operation at a time for each UID, in the order in which they came."""

import asyncio

from pykcm.engine.uid_queues import UidQueues
from tests.server.waiting import settle


async def pass_through(uid_queues: UidQueues, uid: int, name: str, log: list[str], turns: int = 3) -> None:
    """Enter, stay for some turns of the loop, leave."""
    await uid_queues.enter(uid)
    log.append(f"{name} in")
    for _ in range(turns):
        await asyncio.sleep(0)
    log.append(f"{name} out")
    uid_queues.leave(uid)


def test_a_free_queue_is_entered_at_once() -> None:
    """Whoever finds the queue free has it without waiting; afterwards nothing is left of it."""
    uid_queues = UidQueues()
    assert uid_queues.is_free(1000)
    assert list(uid_queues.enter(1000).__await__()) == []
    assert not uid_queues.is_free(1000)
    assert uid_queues.is_free(2000)
    uid_queues.leave(1000)
    assert uid_queues.is_free(1000)
    assert not uid_queues.occupied
    assert uid_queues._queues == {}


async def test_one_at_a_time_in_order() -> None:
    """Those who wait get the queue one after the other, in the order in which they came."""
    uid_queues = UidQueues()
    log: list[str] = []
    await asyncio.gather(*[pass_through(uid_queues, 1000, name, log) for name in "abcd"])
    assert log == [f"{name} {what}" for name in "abcd" for what in ("in", "out")]
    assert not uid_queues.occupied


async def test_handed_over_and_not_freed() -> None:
    """Between two in a row the queue is never free: nobody who comes then can slip in."""
    uid_queues = UidQueues()
    log: list[str] = []
    await uid_queues.enter(1000)
    second = asyncio.create_task(pass_through(uid_queues, 1000, "second", log))
    await settle()
    uid_queues.leave(1000)
    assert not uid_queues.is_free(1000)
    assert log == []
    third = asyncio.create_task(pass_through(uid_queues, 1000, "third", log))
    await asyncio.gather(second, third)
    assert log == ["second in", "second out", "third in", "third out"]


async def test_queues_of_different_uids_are_independent() -> None:
    """A UID does not wait for another."""
    uid_queues = UidQueues()
    log: list[str] = []
    await uid_queues.enter(1000)
    waiting = asyncio.create_task(pass_through(uid_queues, 1000, "waiting", log))
    await pass_through(uid_queues, 2000, "other", log)
    assert log == ["other in", "other out"]
    uid_queues.leave(1000)
    await waiting
    assert not uid_queues.occupied


async def test_one_that_gives_up() -> None:
    """One that is cancelled while it waits is passed over; the next gets the queue."""
    uid_queues = UidQueues()
    log: list[str] = []
    await uid_queues.enter(1000)
    tasks = [asyncio.create_task(pass_through(uid_queues, 1000, name, log)) for name in "abc"]
    await settle()
    for gives_up in (tasks[0], tasks[1]):
        gives_up.cancel()
    await asyncio.wait(tasks[:2])
    uid_queues.leave(1000)
    await tasks[2]
    assert log == ["c in", "c out"]
    assert not uid_queues.occupied


async def test_only_one_that_gives_up() -> None:
    """The queue is free again when all who waited have given up."""
    uid_queues = UidQueues()
    await uid_queues.enter(1000)
    task = asyncio.create_task(pass_through(uid_queues, 1000, "a", []))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    uid_queues.leave(1000)
    assert not uid_queues.occupied


async def test_one_that_gives_up_when_it_is_its_turn() -> None:
    """One that is cancelled in the very moment of the hand-over does not keep the queue for ever."""
    uid_queues = UidQueues()
    log: list[str] = []
    await uid_queues.enter(1000)
    first = asyncio.create_task(pass_through(uid_queues, 1000, "first", log))
    second = asyncio.create_task(pass_through(uid_queues, 1000, "second", log))
    await settle()
    uid_queues.leave(1000)
    first.cancel()
    await asyncio.wait([first])
    await settle()
    assert second.done()
    assert not uid_queues.occupied
