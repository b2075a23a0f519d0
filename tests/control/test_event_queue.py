"""A bounded queue of items for a client that may be slow."""

import asyncio
from typing import Any

from pykcm.control.event_queue import EventQueue
from tests.control.controlling import as_sent
from tests.server.waiting import settle


def numbered(number: int) -> dict[str, Any]:
    return {"number": number}


def put(queue: EventQueue, *numbers: int) -> None:
    for number in numbers:
        queue.put(lambda number=number: numbered(number))  # type: ignore[misc]


async def taken(queue: EventQueue, count: int) -> list[dict[str, Any]]:
    return [as_sent(await queue.next()) for _ in range(count)]


async def test_items_are_in_order() -> None:
    """Items come in the order in which they were put."""
    queue = EventQueue()
    put(queue, 1, 2, 3)
    assert await taken(queue, 3) == [numbered(1), numbered(2), numbered(3)]


async def test_next_waits_for_an_item() -> None:
    """`next` waits until there is an item."""
    queue = EventQueue()
    taking = asyncio.ensure_future(queue.next())
    await settle()
    assert not taking.done()
    put(queue, 1)
    assert as_sent(await taking) == numbered(1)


async def test_lost_items_are_counted() -> None:
    """Items beyond the limit are lost; their number follows the kept ones, once."""
    queue = EventQueue(3)
    put(queue, *range(10))
    assert await taken(queue, 2) == [numbered(0), numbered(1)]
    # The client has not read all: this one is lost as well, so that the order is kept.
    put(queue, 10)
    assert await taken(queue, 2) == [numbered(2), {"lost": 8}]
    put(queue, 11)
    assert await taken(queue, 1) == [numbered(11)]


async def test_lost_items_are_not_made() -> None:
    """An item that would be lost is not made."""
    queue = EventQueue(1)
    put(queue, 1)

    def never() -> dict[str, Any]:
        raise AssertionError("made in vain")

    queue.put(never)
    assert await taken(queue, 2) == [numbered(1), {"lost": 1}]


async def test_waiting_bytes_are_bounded() -> None:
    """Large items are lost before there are many; when the client has read, there is room again."""
    queue = EventQueue(most_bytes=10_000)
    for _ in range(10):
        queue.put(lambda: {"text": "x" * 4000})
    assert [set(each) for each in await taken(queue, 4)] == [{"text"}] * 3 + [{"lost"}]
    put(queue, 1)
    assert await taken(queue, 1) == [numbered(1)]
