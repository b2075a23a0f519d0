"""Coroutines that run at once and without a task behave as in a task."""

import asyncio
from typing import Any

import pytest

from pykcm.engine.stepping import step
from tests.server.waiting import settle, until


def no_later_result(result: Any) -> None:
    raise AssertionError(f"a result later, too: {result}")


def no_failure() -> None:
    raise AssertionError("reported as failed")


class Interrupted(BaseException):
    """An exception that `except Exception` does not catch."""


def test_coroutine_that_does_not_wait_returns_its_result() -> None:
    """A coroutine that never waits has its result before `step` returns, without an event loop."""

    async def at_once() -> int:
        return 7

    assert step(at_once(), no_later_result, no_failure) == 7


async def test_coroutine_continues_when_its_future_is_done() -> None:
    """A coroutine that waits continues each time with the future's result, and gives its own result once."""
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


async def test_coroutine_may_wait_for_a_task() -> None:
    """A timeout, which needs a task, works in a task that the coroutine creates and waits for."""
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


async def test_done_future_does_not_interrupt_the_coroutine() -> None:
    """A coroutine that awaits a done future does not wait."""
    future = asyncio.get_running_loop().create_future()
    future.set_result("early")

    async def waiting() -> str:
        value: str = await future
        return value

    assert step(waiting(), no_later_result, no_failure) == "early"


async def test_exception_of_a_future_is_raised_in_the_coroutine() -> None:
    """An exception of the future is raised where the coroutine waits, and can be handled there."""
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


@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-waiting"])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), asyncio.CancelledError(), GeneratorExit(), Interrupted()], ids=repr
)
async def test_exception_is_reported_as_failure(error: BaseException, *, waits: bool) -> None:
    """After an exception `failed` is called once, and the loop's exception handler gets the exception."""
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    failures: list[str] = []

    async def failing() -> None:
        if waits:
            await asyncio.sleep(0)
        raise error

    assert step(failing(), no_later_result, lambda: failures.append("failed")) is None
    await settle()
    assert failures == ["failed"]
    assert reported == [error]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exceptions_that_end_the_loop_are_raised(error: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit are reported as a failure, and raised."""
    failures: list[str] = []

    async def failing() -> None:
        raise error

    with pytest.raises(error):
        step(failing(), no_later_result, lambda: failures.append("failed"))
    assert failures == ["failed"]
