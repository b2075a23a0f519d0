"""Coroutines that rarely wait: run one at once, and make a task of it only when it really waits."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def step(coroutine: Coroutine[Any, Any, T], done: Callable[[T], None]) -> asyncio.Task[None] | None:
    """Run `coroutine` as far as it goes; `done` gets its result, before the return or later.

    What it raises before it first waits is raised here. A task that is returned must be kept by the caller.
    """
    try:
        waited = coroutine.send(None)
    except StopIteration as end:
        done(end.value)
        return None

    async def finish() -> None:
        done(await _resume(coroutine, waited))

    task = asyncio.get_running_loop().create_task(finish())
    # One that is cancelled before it first runs has not cancelled the coroutine with it.
    task.add_done_callback(lambda _: coroutine.close())
    return task


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, T], waited: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that was stepped by hand, from what it waits for."""
    while True:
        thrown: BaseException | None = None
        value: Any = None
        try:
            value = yield waited
        except BaseException as error:  # noqa: BLE001 - a task's cancellation goes where the coroutine waits
            thrown = error
        try:
            waited = coroutine.send(value) if thrown is None else coroutine.throw(thrown)
        except StopIteration as end:
            result: T = end.value
            return result
