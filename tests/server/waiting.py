"""Waiting in an event loop for what is to happen, and never for a time."""

import asyncio
from collections.abc import Callable

# Long enough for a loaded machine; nothing ever waits this long when all is right.
LIMIT = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0)


async def settle() -> None:
    """Let all that can go on without anything from outside go on."""
    for _ in range(20):
        await asyncio.sleep(0)
