"""One request of a UID at a time, in order."""

import asyncio

from pykcm.engine.uid_queues import UidQueues
from tests.server.waiting import settle


async def pass_through(uid_queues: UidQueues, uid: int, name: str, log: list[str], turns: int = 3) -> None:
    """Enter, stay for some iterations of the event loop, leave."""
    queue = await uid_queues.enter(uid)
    log.append(f"{name} in")
    for _ in range(turns):
        await asyncio.sleep(0)
    log.append(f"{name} out")
    uid_queues.leave(queue)


def test_free_queue_is_entered_without_waiting() -> None:
    """A free queue is entered without waiting; when it is left, it is free again."""
    uid_queues = UidQueues()
    assert uid_queues.is_free(1000)
    queue = uid_queues.enter_if_open(1000)
    assert queue is not None
    assert uid_queues.enter_if_open(1000) is None
    assert not uid_queues.is_free(1000)
    assert uid_queues.is_free(2000)
    uid_queues.leave(queue)
    assert uid_queues.is_free(1000)
    assert not uid_queues.occupied
    assert uid_queues._queues == {}


async def test_callers_enter_one_at_a_time_in_order() -> None:
    """Waiting callers enter the queue one after another, in their order."""
    uid_queues = UidQueues()
    log: list[str] = []
    await asyncio.gather(*[pass_through(uid_queues, 1000, name, log) for name in "abcd"])
    assert log == [f"{name} {what}" for name in "abcd" for what in ("in", "out")]
    assert not uid_queues.occupied


async def test_queue_is_not_free_between_two_waiting_callers() -> None:
    """Between two waiting callers the queue is never free: a new caller cannot overtake."""
    uid_queues = UidQueues()
    log: list[str] = []
    queue = await uid_queues.enter(1000)
    second = asyncio.create_task(pass_through(uid_queues, 1000, "second", log))
    await settle()
    uid_queues.leave(queue)
    assert not uid_queues.is_free(1000)
    assert log == []
    third = asyncio.create_task(pass_through(uid_queues, 1000, "third", log))
    await asyncio.gather(second, third)
    assert log == ["second in", "second out", "third in", "third out"]


async def test_queues_of_different_uids_are_independent() -> None:
    """A UID does not wait for another one."""
    uid_queues = UidQueues()
    log: list[str] = []
    queue = await uid_queues.enter(1000)
    waiting = asyncio.create_task(pass_through(uid_queues, 1000, "waiting", log))
    await pass_through(uid_queues, 2000, "other", log)
    assert log == ["other in", "other out"]
    uid_queues.leave(queue)
    await waiting
    assert not uid_queues.occupied


async def test_cancelled_caller_is_skipped() -> None:
    """A caller that is cancelled while it waits is skipped; the next one enters."""
    uid_queues = UidQueues()
    log: list[str] = []
    queue = await uid_queues.enter(1000)
    tasks = [asyncio.create_task(pass_through(uid_queues, 1000, name, log)) for name in "abc"]
    await settle()
    for gives_up in (tasks[0], tasks[1]):
        gives_up.cancel()
    await asyncio.wait(tasks[:2])
    uid_queues.leave(queue)
    await tasks[2]
    assert log == ["c in", "c out"]
    assert not uid_queues.occupied


async def test_queue_is_free_after_all_callers_are_cancelled() -> None:
    """The queue is free when all waiting callers are cancelled."""
    uid_queues = UidQueues()
    queue = await uid_queues.enter(1000)
    task = asyncio.create_task(pass_through(uid_queues, 1000, "a", []))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    uid_queues.leave(queue)
    assert not uid_queues.occupied


async def test_caller_cancelled_at_the_hand_over_passes_the_queue_on() -> None:
    """A caller that is cancelled at the moment of the hand-over does not keep the queue."""
    uid_queues = UidQueues()
    log: list[str] = []
    queue = await uid_queues.enter(1000)
    first = asyncio.create_task(pass_through(uid_queues, 1000, "first", log))
    second = asyncio.create_task(pass_through(uid_queues, 1000, "second", log))
    await settle()
    uid_queues.leave(queue)
    first.cancel()
    await asyncio.wait([first])
    await settle()
    assert second.done()
    assert not uid_queues.occupied
