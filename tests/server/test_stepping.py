"""Coroutines run at once, and become tasks only where they wait: they must not notice the difference."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

from pykcm.server.stepping import step
from tests.server.waiting import settle


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_without_waiting() -> None:
    """A coroutine that never waits has its result before `step` returns, without a task or a loop."""
    results: list[int] = []

    async def at_once() -> int:
        return 7

    assert step(at_once(), results.append) is None
    assert results == [7]


def test_raises_at_once() -> None:
    """What a coroutine raises before it first waits is raised by `step`."""

    async def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step(failing(), lambda _: None)


def test_result_after_waiting(loop_runner: asyncio.Runner) -> None:
    """A coroutine that waits goes on as a task, gets what it waited for each time, and gives its result."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        results: list[list[Any]] = []

        async def waiting() -> list[Any]:
            return [await first, await asyncio.sleep(0, "slept"), await second]

        task = step(waiting(), results.append)
        assert task is not None
        await settle()
        assert results == []
        first.set_result("first")
        await settle()
        assert results == []
        second.set_result("second")
        await task
        assert results == [["first", "slept", "second"]]

    loop_runner.run(scenario())


def test_future_that_is_done_already() -> None:
    """A coroutine may wait for what was done before its task first ran."""

    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        results: list[str] = []

        async def waiting() -> str:
            value: str = await future
            return value

        task = step(waiting(), results.append)
        assert task is not None
        future.set_result("early")
        await task
        assert results == ["early"]

    run(scenario())


def test_exception_that_was_waited_for() -> None:
    """An exception of what is waited for is raised where the coroutine waits, and may be handled there."""

    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        results: list[str] = []

        async def handling() -> str:
            try:
                await future
            except ZeroDivisionError:
                return await asyncio.sleep(0, "handled")
            return "missed"

        task = step(handling(), results.append)
        assert task is not None
        future.set_exception(ZeroDivisionError())
        await task
        assert results == ["handled"]

    run(scenario())


def test_raises_later() -> None:
    """What a coroutine raises after it waited is the task's exception; there is no result."""

    async def scenario() -> None:
        results: list[None] = []

        async def failing() -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        task = step(failing(), results.append)
        assert task is not None
        with pytest.raises(ZeroDivisionError):
            await task
        assert results == []

    run(scenario())


@pytest.mark.parametrize("turns", [0, 3], ids=["before its task ran", "while it waits"])
def test_cancellation(turns: int) -> None:
    """A cancelled task is cancelled where its coroutine waits; what has to be tidied is tidied."""

    async def scenario() -> None:
        tidied: list[type[BaseException] | None] = []

        async def waiting() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except BaseException as error:
                tidied.append(type(error))
                raise

        task = step(waiting(), lambda _: None)
        assert task is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(tidied) == 1
        if turns:
            assert tidied == [asyncio.CancelledError]

    run(scenario())


def test_cancellation_between_turns() -> None:
    """A coroutine that only lets others go on is cancelled there as well."""

    async def scenario() -> None:
        async def turning() -> None:
            while True:  # noqa: ASYNC110 - it waits for nothing
                await asyncio.sleep(0)

        task = step(turning(), lambda _: None)
        assert task is not None
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


def test_cancellation_that_is_survived() -> None:
    """A coroutine may handle its cancellation and give a result all the same."""

    async def scenario() -> None:
        results: list[str] = []

        async def stubborn() -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
            return await asyncio.sleep(0, "done")

        task = step(stubborn(), results.append)
        assert task is not None
        await settle()
        task.cancel()
        await task
        assert results == ["done"]

    run(scenario())


def test_timeouts_inside() -> None:
    """A timeout that begins after the first wait works: the coroutine is in a task by then."""

    async def scenario() -> None:
        results: list[str] = []

        async def impatient() -> str:
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                return "timed out"
            return "missed"

        task = step(impatient(), results.append)
        assert task is not None
        await task
        assert results == ["timed out"]

    run(scenario())
