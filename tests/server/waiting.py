"""Waiting in an event loop for a condition, and never for a time."""

import asyncio
from collections.abc import Callable

# In seconds: long enough for a loaded machine. A test that passes never waits for so long.
LIMIT = 60.0


async def until(condition: Callable[[], object]) -> None:
    """Run the event loop until the condition holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0)


async def settle() -> None:
    """Run the event loop for some iterations: all that needs no further event is then done."""
    for _ in range(20):
        await asyncio.sleep(0)
