"""Coroutines run at once, and go on when they can: they must not notice that there is no task around them."""

import asyncio
from typing import Any

import pytest

from pykcm.engine.stepping import step
from tests.server.waiting import settle, until


def never(result: Any) -> None:
    raise AssertionError(f"a result later, too: {result}")


def no_failure() -> None:
    raise AssertionError("reported as failed")


class Interrupted(BaseException):
    """An exception that `except Exception` does not catch."""


def test_without_waiting() -> None:
    """A coroutine that never waits has its result before `step` returns, without a loop."""

    async def at_once() -> int:
        return 7

    assert step(at_once(), never, no_failure) == 7


def test_result_after_waiting(loop_runner: asyncio.Runner) -> None:
    """A coroutine that waits goes on each time with what it waited for, and gives its result once."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        results: list[list[Any]] = []

        async def waiting() -> list[Any]:
            return [await first, await asyncio.sleep(0, "slept"), await second]

        assert step(waiting(), results.append, no_failure) is None
        await settle()
        assert results == []
        first.set_result("first")
        await settle()
        assert results == []
        second.set_result("second")
        await settle()
        assert results == [["first", "slept", "second"]]

    loop_runner.run(scenario())


def test_waiting_for_a_task(loop_runner: asyncio.Runner) -> None:
    """What needs a task, as a timeout does, works in one that the coroutine makes and waits for."""

    async def scenario() -> None:
        results: list[str] = []

        async def impatient() -> None:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()

        async def waiting() -> str:
            try:
                await asyncio.create_task(impatient())
            except TimeoutError:
                return "timed out"
            return "missed"

        assert step(waiting(), results.append, no_failure) is None
        await until(lambda: results)
        assert results == ["timed out"]

    loop_runner.run(scenario())


def test_future_that_is_done_already(loop_runner: asyncio.Runner) -> None:
    """A coroutine that awaits what is done already does not wait."""

    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result("early")

        async def waiting() -> str:
            value: str = await future
            return value

        assert step(waiting(), never, no_failure) == "early"

    loop_runner.run(scenario())


def test_exception_that_was_waited_for(loop_runner: asyncio.Runner) -> None:
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

        assert step(handling(), results.append, no_failure) is None
        future.set_exception(ZeroDivisionError())
        await settle()
        assert results == ["handled"]

    loop_runner.run(scenario())


@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-waiting"])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), asyncio.CancelledError(), GeneratorExit(), Interrupted()], ids=repr
)
def test_an_exception_is_reported_as_failure(
    loop_runner: asyncio.Runner, error: BaseException, *, waits: bool
) -> None:
    """A coroutine that ends by any exception has no result: `failed` is called once, and the loop is told."""

    async def scenario() -> None:
        reported: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        failures: list[str] = []

        async def failing() -> None:
            if waits:
                await asyncio.sleep(0)
            raise error

        assert step(failing(), never, lambda: failures.append("failed")) is None
        await settle()
        assert failures == ["failed"]
        assert reported == [error]

    loop_runner.run(scenario())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_loop_is_raised(error: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit are reported as a failure, and go on to the loop."""
    failures: list[str] = []

    async def failing() -> None:
        raise error

    with pytest.raises(error):
        step(failing(), never, lambda: failures.append("failed"))
    assert failures == ["failed"]
