"""Long work gives turns to others, and to other long work."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pykcm.engine.slices import Slices, Work

Job = Callable[[Work], Awaitable[None]]


def run_together(runner: asyncio.Runner, slices: Slices, *jobs: Job) -> None:
    async def one(job: Job) -> None:
        async with slices.work() as work:
            await job(work)

    async def together() -> None:
        await asyncio.gather(*map(one, jobs))

    runner.run(together())


def test_one_slice_of_all_work_in_each_iteration(runner: asyncio.Runner) -> None:
    """Two pieces of work take turns, and in each iteration of the event loop only one of them goes on."""
    slices = Slices()
    went_on: list[tuple[str, int]] = []
    iterations = 0

    def job(name: str) -> Job:
        async def work_on(work: Work) -> None:
            for _ in range(4):
                await work.pause()
                went_on.append((name, iterations))

        return work_on

    async def count(work: Work) -> None:
        nonlocal iterations
        while len(went_on) < 8:
            iterations += 1
            await asyncio.sleep(0)

    run_together(runner, slices, job("a"), job("b"), count)
    assert "".join(name for name, _ in went_on) == "abababab"
    assert len({iteration for _, iteration in went_on}) == 8


def test_work_of_one_slice_waits_for_nobody(runner: asyncio.Runner) -> None:
    """Work that never pauses is done at once, however much other work waits."""
    slices = Slices()
    ended: list[str] = []

    async def long(work: Work) -> None:
        for _ in range(10):
            await work.pause()
        ended.append("long")

    async def short(work: Work) -> None:
        ended.append("short")

    run_together(runner, slices, *[long] * 8, short)
    assert ended == ["short"] + ["long"] * 8


def test_few_pieces_of_work_at_once(runner: asyncio.Runner) -> None:
    """Two pieces of work go on at once; another one begins when one of them is done or has failed."""
    slices = Slices()
    going_on: set[int] = set()
    most = done = 0

    def job(number: int) -> Job:
        async def work_on(work: Work) -> None:
            nonlocal most, done
            await work.pause()
            going_on.add(number)
            most = max(most, len(going_on))
            await work.pause()
            going_on.remove(number)
            done += 1
            if number == 1:
                raise ValueError

        return work_on

    async def tolerant(work: Work) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - the one above
            async with slices.work() as another:
                await job(1)(another)

    run_together(runner, slices, job(0), tolerant, *[job(number) for number in range(2, 7)])
    assert most == 2
    assert done == 7


@pytest.mark.parametrize("handed_over", [False, True])
def test_work_that_is_cancelled_while_it_waits(runner: asyncio.Runner, *, handed_over: bool) -> None:
    """Work that is cancelled before its turn takes nobody's place."""
    slices = Slices()

    async def play() -> None:
        await slices.begin()
        await slices.begin()
        waiting = asyncio.ensure_future(slices.begin())
        await asyncio.sleep(0)
        if handed_over:
            slices.end()
        waiting.cancel()
        await asyncio.wait([waiting])
        if not handed_over:
            slices.end()
        await slices.begin()

    runner.run(play())
