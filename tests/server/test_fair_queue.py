"""Turns: who is served at once, who waits, and in which order those that wait are served."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pykcm.server.fair_queue import _PAUSE, _SLICE, FairQueue
from tests.server.waiting import settle, until

LONG = 2 * _SLICE


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Table:
    """A fair queue, its clock, and what has been served in which order."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fair_queue = FairQueue(self.clock)
        self.served: list[str] = []

    def pass_a_slice(self) -> None:
        """What has been served took as long as a slice may be."""
        assert self.fair_queue.admits(1)
        self.clock.time += 1.01 * _SLICE
        self.fair_queue.now = self.fair_queue.clock()
        assert not self.fair_queue.admits(1)

    def wait(self, uid: int, *names: str, cost: float = 0.0) -> list["Request"]:
        requests = [Request(self, uid, name, cost) for name in names]
        for request in requests:
            self.fair_queue.wait(uid, request)
        return requests


class Request:
    """Takes so many seconds to be served, and is noted then."""

    def __init__(self, table: Table, uid: int, name: str, cost: float) -> None:
        self.table = table
        self.uid = uid
        self.name = name
        self.cost = cost
        self.afterwards: Callable[[], object] = lambda: None

    def take_turn(self) -> None:
        self.table.clock.time += self.cost
        self.table.served.append(self.name)
        self.afterwards()


Scenario = Callable[[Table], Coroutine[Any, Any, None]]


@pytest.fixture
def play(loop_runner: asyncio.Runner) -> Callable[[Scenario], None]:
    """Plays a scenario with a new fair queue, on each event loop in turn."""
    return lambda scenario: loop_runner.run(scenario(Table()))


Play = Callable[[Scenario], None]


def test_served_at_once(play: Play) -> None:
    """Where nothing waits and the slice is not over, requests are served where they arrive."""

    async def scenario(table: Table) -> None:
        for _ in range(10):
            assert table.fair_queue.admits(1)
            table.clock.time += _SLICE / 20
        assert not table.fair_queue._is_due

    play(scenario)


def test_now(play: Play) -> None:
    """`now` is when a request was last asked for."""

    async def scenario(table: Table) -> None:
        for _ in range(2):
            table.fair_queue.admits(1)
            assert table.fair_queue.now == table.clock.time
            table.clock.time += 5

    play(scenario)


def test_a_slice(play: Play) -> None:
    """What comes when a slice is over waits, until the event loop has turned."""

    async def scenario(table: Table) -> None:
        table.pass_a_slice()
        table.wait(1, "a")
        assert table.served == []
        assert not table.fair_queue.admits(1)
        await settle()
        assert table.served == ["a"]
        assert table.fair_queue.admits(1)

    play(scenario)


def test_the_loop_turns_before_the_slice_is_over(play: Play) -> None:
    """A turn of the loop towards the end of a slice begins the next one, and nobody has to wait."""

    async def scenario(table: Table) -> None:
        for _ in range(5):
            assert table.fair_queue.admits(1)
            table.clock.time += _PAUSE * 0.9
        assert table.fair_queue.admits(1)
        await settle()
        table.clock.time += _PAUSE * 0.9
        assert table.fair_queue.admits(1)

    play(scenario)


def test_a_pause_begins_a_new_slice(play: Play) -> None:
    """After a pause without requests, the next one is served at once; after less than one, it waits."""

    async def scenario(table: Table) -> None:
        table.pass_a_slice()
        table.clock.time += _PAUSE * 0.9
        assert not table.fair_queue.admits(1)
        table.clock.time += _PAUSE * 1.1
        assert table.fair_queue.admits(1)

    play(scenario)


def test_serving_is_no_pause(play: Play) -> None:
    """Requests that each take longer than a pause use up the slice all the same."""

    async def scenario(table: Table) -> None:
        for _ in range(3):
            assert table.fair_queue.admits(1)
            table.clock.time += 4 * _PAUSE
            table.fair_queue.now = table.fair_queue.clock()
        assert not table.fair_queue.admits(1)

    play(scenario)


def test_nobody_overtakes(play: Play) -> None:
    """While somebody waits, nothing is served at once, however long the pause was."""

    async def scenario(table: Table) -> None:
        table.pass_a_slice()
        table.wait(1, "a")
        table.clock.time += 100 * _PAUSE
        assert not table.fair_queue.admits(1)

    play(scenario)


def test_the_first_of_another_uid(play: Play) -> None:
    """When a slice is over, a UID that was not served in it is served at once, and only the first time."""

    async def scenario(table: Table) -> None:
        table.pass_a_slice()
        table.wait(1, "a")
        assert table.fair_queue.admits(2)
        assert not table.fair_queue.admits(2)
        table.wait(3, "b")
        assert not table.fair_queue.admits(3)
        await asyncio.sleep(0)
        assert table.served == ["a", "b"]
        assert table.fair_queue.admits(2)

    play(scenario)


@pytest.mark.parametrize("cost", [0.0, LONG], ids=["within a slice", "each a slice"])
def test_uids_in_rotation(play: Play, cost: float) -> None:
    """One request of each UID in rotation, those of a UID in the order in which they came."""

    async def scenario(table: Table) -> None:
        table.wait(1, "1a", "1b", "1c", "1d", cost=cost)
        table.wait(2, "2a", cost=cost)
        table.wait(3, "3a", "3b", cost=cost)
        await until(lambda: len(table.served) == 7)
        assert table.served == ["1a", "2a", "3a", "1b", "3b", "1c", "1d"]
        assert not table.fair_queue._waiting

    play(scenario)


def test_the_loop_turns_between_slices(play: Play) -> None:
    """When a slice is over, the event loop sees to others before the next one begins."""

    async def scenario(table: Table) -> None:
        table.wait(1, "a", "b", "c", cost=_SLICE / 2)
        await asyncio.sleep(0)
        served = len(table.served)
        await settle()
        assert (served, table.served) == (2, ["a", "b", "c"])

    play(scenario)


def test_who_comes_while_others_are_served(play: Play) -> None:
    """A UID that comes when another has much waiting is served after one request of that UID at most."""

    async def scenario(table: Table) -> None:
        flood = table.wait(1, *[f"flood{number}" for number in range(50)], cost=LONG)
        flood[4].afterwards = lambda: table.wait(2, "other")
        await until(lambda: len(table.served) == 51)
        assert table.served.index("other") == 6

    play(scenario)


def test_who_has_more_queues_up_again(play: Play) -> None:
    """Requests of one connection are served one in each rotation, behind the UID's other connections."""

    async def scenario(table: Table) -> None:
        names = iter(["again", "and again"])

        def queue_up() -> None:
            for name in names:
                table.wait(1, name)[0].afterwards = queue_up
                break

        table.wait(1, "first")[0].afterwards = queue_up
        table.wait(1, "second", "third")
        table.wait(2, "other", "other's second")
        await settle()
        assert table.served == ["first", "other", "second", "other's second", "third", "again", "and again"]

    play(scenario)


def test_nothing_is_kept(play: Play) -> None:
    """When all are served, nothing of any UID is kept, and the loop is left alone."""

    async def scenario(table: Table) -> None:
        for uid in range(1000):
            table.wait(uid, "a")
        await settle()
        assert len(table.served) == 1000
        assert not table.fair_queue._waiting
        assert not table.fair_queue._is_due

    play(scenario)
