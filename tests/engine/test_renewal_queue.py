"""The order of renewals: nearest end first, fair between users, within the limits."""

import random
from collections import Counter

import pytest

from pykcm.engine.renewal_queue import OrderedQueue, RenewalQueue, Tgt
from tests.engine.queued_tgts import queue_of, taken, tgt


def test_tgt_waits_until_it_is_due() -> None:
    """A TGT is taken when it is due, and not before; one that is never due is not taken."""
    never = tgt(30)
    never.due = None
    queue = queue_of(tgt(20, due=5), never)
    assert queue.take(4.9) is None
    assert queue.next_due == 5
    assert taken(queue, 5) == [20]
    assert queue.next_due is None


def test_tgt_that_ends_first_is_first() -> None:
    """TGTs that are due are taken in the order of their ends, whatever the order in which they were due."""
    queue = queue_of(*(tgt(end, uid, due=uid) for uid, end in enumerate([50, 20, 40, 30], 1)))
    assert taken(queue, 10) == [20, 30, 40, 50]


def test_user_with_fewer_attempts_is_first() -> None:
    """A user with many TGTs that end first does not hold up other users."""
    queue = queue_of(*(tgt(end, 1) for end in range(10, 40)), tgt(100, 2), tgt(90, 3), most=6)
    assert taken(queue) == [10, 90, 100, 11, 12]


def test_user_has_at_most_half_of_all_attempts() -> None:
    """One user never takes all attempts; the others are free for users who come later."""
    queue = queue_of(*(tgt(end, 1) for end in range(10, 40)), most=6)
    assert taken(queue) == [10, 11, 12]
    queue.put(tgt(500, 2))
    assert taken(queue) == [500]


@pytest.mark.parametrize("realms", [1, 3])
def test_realm_has_at_most_its_attempts(realms: int) -> None:
    """Attempts of one realm are limited; those of other realms go on."""
    tgts = [
        tgt(100 * uid + realm, uid, realm=b"%d" % realm) for uid in range(1, 6) for realm in range(realms)
    ]
    queue = queue_of(*tgts, most=100, most_of_realm=2)
    first = taken(queue)
    assert Counter(end % 100 for end in first) == dict.fromkeys(range(realms), 2)
    for each in tgts:
        if each.end in first:
            queue.end(each)
    assert len(taken(queue)) == 2 * realms


def test_ccache_has_one_attempt_at_a_time() -> None:
    """The second TGT of a ccache waits until the attempt with the first one has ended."""
    one, two = tgt(10, ccache=b"c"), tgt(20, ccache=b"c")
    queue = queue_of(one, two)
    assert taken(queue) == [10]
    assert queue.ready == 1
    queue.end(one)
    assert taken(queue) == [20]


def test_removed_tgt_frees_the_place_of_the_next() -> None:
    """A TGT that is removed while it waits for its realm does not keep others of the realm waiting."""
    one, two, three = (tgt(10 * uid, uid) for uid in (1, 2, 3))
    queue = queue_of(one, two, three, most_of_realm=1)
    assert taken(queue) == [10]
    queue.end(one)
    queue.discard(two)
    assert taken(queue) == [30]
    queue.end(three)
    assert (queue.trying, queue.ready, queue.next_due) == (0, 0, None)


def check_limits(
    queue: RenewalQueue, waiting: list[Tgt], trying: list[Tgt], most: int, others: set[Tgt]
) -> None:
    """Check that no limit is exceeded, and that each TGT that waits waits for one of them.

    `others`: those of `trying` that were begun without a known answer of their realm.
    """
    by_uid, by_realm = Counter(each.uid for each in trying), Counter(each.realm for each in trying)
    busy = {(each.uid, each.ccache) for each in trying}
    assert len(busy) == len(trying) == queue.trying <= most
    most_of_others = most - most // 4
    assert len(others) <= most_of_others
    assert max(by_uid.values(), default=0) <= (most + 1) // 2
    assert queue.ready == len(waiting)
    for each in waiting if len(trying) < most else ():
        assert (
            (each.uid, each.ccache) in busy
            or by_uid[each.uid] == (most + 1) // 2
            or by_realm[each.realm] >= queue.realms.limit(each.realm)
            or len(others) == most_of_others
        )


def any_tgt(chance: random.Random) -> Tgt:
    uid, realm = chance.randrange(4), b"%d" % chance.randrange(3)
    return tgt(chance.randrange(1000), uid, realm=realm, ccache=b"%d" % chance.randrange(4))


@pytest.mark.parametrize("seed", range(60))
def test_no_tgt_waits_without_reason(seed: int) -> None:
    """After any history, a TGT that is due waits only for a limit, and the queue keeps nothing at the end."""
    chance = random.Random(seed)
    most, most_of_realm = chance.randint(1, 6), chance.randint(1, 4)
    queue = RenewalQueue(most, most_of_realm)
    waiting: list[Tgt] = []
    trying: list[Tgt] = []
    others: set[Tgt] = set()
    for number in range(400):
        action = chance.random()
        if action < 0.45:
            waiting.append(any_tgt(chance))
            queue.put(waiting[-1])
        elif action < 0.6 and waiting:
            gone = waiting.pop(chance.randrange(len(waiting)))
            queue.discard(gone)
        elif trying:
            ended = trying.pop(chance.randrange(len(trying)))
            others.discard(ended)
            queue.realms.note(ended.realm, answers=chance.random() < 0.6)
            queue.end(ended)
            if chance.random() < 0.3:
                waiting.append(ended)
                queue.put(ended)
        while (found := queue.take(number)) is not None:
            waiting.remove(found)
            assert sum(each.realm == found.realm for each in trying) < queue.realms.limit(found.realm)
            trying.append(found)
            if not queue.realms.answers(found.realm):
                others.add(found)
        check_limits(queue, waiting, trying, most, others)
    for each in waiting:
        queue.discard(each)
    for each in trying:
        queue.end(each)
    left = (
        *(queue._ready._of_uids, queue._ready_of_others._of_uids, queue._tried_of_others),
        *(queue._of_full_realms, queue._of_busy_ccaches, queue._tried_by_uid),
    )
    assert [len(each) for each in left] == [0] * 6


def test_removed_items_take_no_memory() -> None:
    """A queue in which items are replaced again and again does not grow."""
    queue: OrderedQueue[int] = OrderedQueue()
    for number in range(10_000):
        queue.put(number % 10, number)
    assert len(queue._heap) < 200
    assert [queue.pop() for _ in range(10)] == list(range(10))


def test_cost_does_not_grow_with_tgts_that_are_not_due() -> None:
    """Taking what is due compares as many keys among 100,000 TGTs that are not due as among 100, nearly."""

    def comparisons(others: int) -> int:
        compared = 0

        class Time(float):
            def __lt__(self, other: float) -> bool:
                nonlocal compared
                compared += 1
                return float(self) < float(other)

        queue = queue_of(*(tgt(number, number, due=Time(1000 + number)) for number in range(others)))
        queue.put(tgt(5, 1, due=Time(1)))
        compared = 0
        assert taken(queue, 2) == [5]
        return compared

    assert comparisons(100_000) <= comparisons(100) + 30
