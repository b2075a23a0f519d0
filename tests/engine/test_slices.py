"""Long work runs in slices, which alternate with requests and with other long work."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pykcm.engine.slices import Slices, Work

Job = Callable[[Work], Awaitable[None]]


async def run_together(slices: Slices, *jobs: Job) -> None:
    async def run(job: Job) -> None:
        async with slices.work() as work:
            await job(work)

    await asyncio.gather(*map(run, jobs))


async def test_one_slice_of_all_work_in_each_iteration() -> None:
    """Two pieces of work alternate: each iteration of the event loop runs one slice."""
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

    await run_together(slices, job("a"), job("b"), count)
    assert "".join(name for name, _ in went_on) == "abababab"
    assert len({iteration for _, iteration in went_on}) == 8


async def test_work_of_one_slice_does_not_wait() -> None:
    """Work that never pauses is done at once, even if much other work waits."""
    slices = Slices()
    ended: list[str] = []

    async def long(work: Work) -> None:
        for _ in range(10):
            await work.pause()
        ended.append("long")

    async def short(work: Work) -> None:
        ended.append("short")

    await run_together(slices, *[long] * 8, short)
    assert ended == ["short"] + ["long"] * 8


async def test_two_pieces_of_work_run_concurrently() -> None:
    """A third piece of work begins when one of two is done or has failed."""
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

    await run_together(slices, job(0), tolerant, *[job(number) for number in range(2, 7)])
    assert most == 2
    assert done == 7


@pytest.mark.parametrize("handed_over", [False, True])
async def test_cancelled_work_gives_its_place_back(*, handed_over: bool) -> None:
    """Work that is cancelled before it begins takes no place."""
    slices = Slices()
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
