"""The queue between what happens and a client that may be slow."""

import asyncio
from typing import Any

from pykcm.control.event_queue import EventQueue
from tests.control.controlling import as_sent
from tests.server.waiting import settle


def numbered(number: int) -> dict[str, Any]:
    return {"number": number}


def put(feed: EventQueue, *numbers: int) -> None:
    for number in numbers:
        feed.put(lambda number=number: numbered(number))  # type: ignore[misc]


def taken(feed: EventQueue, count: int) -> list[dict[str, Any]]:
    async def take() -> list[dict[str, Any]]:
        return [as_sent(await feed.next()) for _ in range(count)]

    return asyncio.run(take())


def test_in_order() -> None:
    """Items come as they were put."""
    feed = EventQueue()
    put(feed, 1, 2, 3)
    assert taken(feed, 3) == [numbered(1), numbered(2), numbered(3)]


def test_waiting() -> None:
    """Who takes before anything has happened waits for it."""

    async def scenario() -> None:
        feed = EventQueue()
        taking = asyncio.ensure_future(feed.next())
        await settle()
        assert not taking.done()
        put(feed, 1)
        assert as_sent(await taking) == numbered(1)

    asyncio.run(scenario())


def test_lost() -> None:
    """Of what is too much nothing is kept, and behind what was kept its number stands, once."""
    feed = EventQueue(3)
    put(feed, *range(10))
    assert taken(feed, 2) == [numbered(0), numbered(1)]
    # Still behind: it is lost, too, so that what comes is in order.
    put(feed, 10)
    assert taken(feed, 2) == [numbered(2), {"lost": 8}]
    put(feed, 11)
    assert taken(feed, 1) == [numbered(11)]


def test_what_is_lost_is_not_made() -> None:
    """Putting what is lost costs a number and nothing else."""
    feed = EventQueue(1)
    put(feed, 1)

    def never() -> dict[str, Any]:
        raise AssertionError("made in vain")

    feed.put(never)
    assert taken(feed, 2) == [numbered(1), {"lost": 1}]


def test_waiting_bytes_are_bounded() -> None:
    """Long items are lost before there are many of them; there is room again when the client has them."""
    feed = EventQueue(most_bytes=10_000)
    for _ in range(10):
        feed.put(lambda: {"text": "x" * 4000})
    assert [set(each) for each in taken(feed, 4)] == [{"text"}] * 3 + [{"lost"}]
    put(feed, 1)
    assert taken(feed, 1) == [numbered(1)]
