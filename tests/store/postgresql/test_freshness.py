"""Look-ups of versions: who shares one, and what becomes of those who wait."""

import asyncio
import errno
from collections.abc import Callable, Mapping, Sequence

import pytest

from pykcm.store.interface import StoreError
from pykcm.store.postgresql.freshness import NewestVersions
from tests.server.waiting import settle

_Answered = Callable[[Mapping[int, int] | None], None]


class _LookUps:
    """Implements LookUp: the test answers. `can_ask`: whether a question can be asked at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], _Answered]] = []
        self.can_ask = True
        self.waited: list[list[int]] = []
        self.error: Exception | None = None

    def ask_versions(self, uids: Sequence[int], answered: _Answered) -> bool:
        if self.can_ask:
            self.asked.append((list(uids), answered))
        return self.can_ask

    async def versions(self, uids: Sequence[int]) -> dict[int, int]:
        self.waited.append(list(uids))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return dict.fromkeys(uids, 7)


@pytest.fixture
def look_ups() -> _LookUps:
    return _LookUps()


@pytest.fixture
def newest(look_ups: _LookUps) -> NewestVersions:
    return NewestVersions(look_ups)


async def test_those_who_come_together_share_a_look_up(look_ups: _LookUps, newest: NewestVersions) -> None:
    """Two requests of a UID and one of another UID are one question; an unknown UID has version 0."""
    futures = [newest.newest(uid) for uid in (1, 2, 1)]
    await settle()
    [(uids, answered)] = look_ups.asked
    assert sorted(uids) == [1, 2]
    answered({1: 5})
    assert await asyncio.gather(*futures) == [5, 0, 5]


async def test_answer_of_an_earlier_question_does_not_count(
    look_ups: _LookUps, newest: NewestVersions
) -> None:
    """A request that comes while a look-up is in progress gets the answer of the next one."""
    first = newest.newest(1)
    await settle()
    second = newest.newest(1)
    await settle()
    look_ups.asked[0][1]({1: 1})
    assert await first == 1
    await settle()
    assert not second.done()
    look_ups.asked[1][1]({1: 2})
    assert await second == 2


async def test_cancelled_request_takes_no_answer_from_the_others(
    look_ups: _LookUps, newest: NewestVersions
) -> None:
    """A caller that has gone leaves those who wait for the same UID."""
    gone, stays = newest.newest(1), newest.newest(1)
    await settle()
    gone.cancel()
    look_ups.asked[0][1]({1: 5})
    assert await stays == 5


async def test_failed_question_is_asked_again_with_patience(
    look_ups: _LookUps, newest: NewestVersions
) -> None:
    """The question is asked again by the way that can wait, which finds out what to do about the failure."""
    futures = [newest.newest(1), newest.newest(2)]
    await settle()
    look_ups.asked[0][1](None)
    assert await asyncio.gather(*futures) == [7, 7]
    assert look_ups.waited == [[1, 2]]
    later = newest.newest(3)
    await settle()
    look_ups.asked[1][1]({3: 1})
    assert await later == 1


async def test_question_that_cannot_be_asked_at_once_waits(
    look_ups: _LookUps, newest: NewestVersions
) -> None:
    """Without an idle connection the question waits for one, and those who come meanwhile for the next."""
    look_ups.can_ask = False
    first = newest.newest(1)
    await settle()
    assert (await first, await newest.newest(2)) == (7, 7)
    assert look_ups.waited == [[1], [2]]


async def test_all_who_wait_get_the_error(look_ups: _LookUps, newest: NewestVersions) -> None:
    """A database that is away fails all requests of a look-up, and none of a later one."""
    look_ups.can_ask = False
    look_ups.error = StoreError("away", errno.ETIMEDOUT)
    futures = [newest.newest(1), newest.newest(2)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert outcomes == [look_ups.error, look_ups.error]
    look_ups.error = None
    assert await newest.newest(1) == 7


async def test_look_up_is_bounded(look_ups: _LookUps, newest: NewestVersions) -> None:
    """More than a thousand UIDs are several questions, one after the other."""
    futures = [newest.newest(uid) for uid in range(2500)]
    sizes: list[int] = []
    while not all(future.done() for future in futures):
        await settle()
        uids, answered = look_ups.asked[len(sizes)]
        sizes.append(len(uids))
        answered({uid: uid + 1 for uid in uids})
    assert sizes == [1000, 1000, 500]
    assert [future.result() for future in futures] == [uid + 1 for uid in range(2500)]
