"""Realms whose KDCs do not answer hold up no others, and are asked and logged less often."""

import pytest

from pykcm.engine import renewal_queue
from pykcm.engine.renewal_attempts import Failure
from pykcm.engine.renewal_queue import Realms
from tests.builders import principal
from tests.engine.queued_tgts import queue_of, taken
from tests.engine.queued_tgts import tgt as queued
from tests.engine.renewing import NOW, Client, Host, tgt

NEW = tgt(NOW + 50, NOW + 150, ticket=b"renewed")


def test_realms_that_do_not_answer_leave_attempts_to_others() -> None:
    """Realms that never answered take three quarters of all attempts, and the rest is free for others."""
    names = [b"R%d" % number for number in range(300)]
    silent = [queued(number, number, realm=realm) for number, realm in enumerate(names, 1)]
    queue = queue_of(*silent, queued(1000, 500, realm=b"good"), most=32, silent=tuple(names))
    first = taken(queue)
    assert first == [*range(1, 25), 1000]
    queue.put(queued(2000, 501, realm=b"good"))
    assert taken(queue) == [2000]


def test_realm_that_was_silent_comes_after_one_that_was_not_asked() -> None:
    """Of realms that are not known to answer, those that were never asked are first."""
    queue = queue_of(
        queued(10, 1, realm=b"away"), queued(20, 2, realm=b"new"), most=1, silent=(b"away", b"new")
    )
    queue.realms.note(b"away", answers=False)
    assert taken(queue) == [20]


def test_silent_realm_has_fewer_attempts_until_it_answers() -> None:
    """Attempts without an answer halve those of the realm to one; with an answer it has all again."""
    tgts = [queued(number, number) for number in range(1, 31)]
    queue = queue_of(*tgts, most=40, most_of_realm=8)
    trying = taken(queue)
    assert trying == list(range(1, 9))
    for number in trying:
        queue.realms.note(b"R", answers=False)
        queue.end(tgts[number - 1])
    assert taken(queue) == [9]
    queue.realms.note(b"R", answers=True)
    queue.end(tgts[8])
    assert taken(queue) == list(range(10, 18))


def test_tgts_follow_what_their_realm_has_become() -> None:
    """A TGT that became ready before its realm answered, or ceased to, is tried by the new state."""
    one, two = queued(10, 1, realm=b"one"), queued(20, 2, realm=b"two")
    queue = queue_of(one, two, most=1, silent=(b"two",))
    three = queued(5, 3, realm=b"three")
    queue.put(three)
    assert taken(queue) == [5]
    queue.realms.note(b"one", answers=False)
    queue.realms.note(b"two", answers=True)
    queue.end(three)
    assert taken(queue) == [20]
    queue.end(two)
    assert taken(queue) == [10]


def test_memory_of_realms_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more realms than are remembered, those are forgotten that were noted first."""
    monkeypatch.setattr(renewal_queue, "_MOST_REALMS", 10)
    realms = Realms(16)
    for number in range(100):
        realms.note(b"%d" % number, answers=True)
        realms.note(b"-%d" % number, answers=False)
    assert (len(realms._answering), len(realms._limits)) == (10, 10)
    assert (realms.answers(b"89"), realms.answers(b"90")) == (False, True)
    assert (realms.limit(b"-89"), realms.limit(b"-90")) == (16, 8)


async def test_realm_that_is_silent_has_one_attempt_at_a_time() -> None:
    """While the KDC is away, attempts at it become fewer; the first answer ends that."""
    host = Host(most_of_realm=4)
    for uid in range(1000, 1020):
        await host.fill(b"x", tgt(), uid=uid)
    async with Client(host.renewals) as client:
        assert len(await host.at(NOW + 50, client)) == 4
        for offer in client.offers[:4]:
            await host.renewals.hand_back(offer.id, Failure("timeout"))
        assert len(await host.at(NOW + 50, client)) == 5
        await host.renewals.hand_back(client.offers[4].id, Failure("internal"))
        assert len(await host.at(NOW + 50, client)) == 6
        await host.renewals.hand_back(client.offers[5].id, NEW.blob)
        assert len(await host.at(NOW + 50, client)) == 10


async def test_dead_kdc_has_few_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A KDC that does not answer is three lines in a minute, for any number of users."""
    host = Host()
    for uid in range(1000, 1040):
        await host.fill(b"x", tgt(), uid=uid)
    async with Client(host.renewals) as client:
        while await host.at(NOW + 50, client) and len(client.offers) < 40:
            for offer in client.offers[-16:]:
                await host.renewals.hand_back(offer.id, Failure("timeout", "no KDC answered"))
    lines = [each.getMessage() for each in caplog.records if "not renewed" in each.getMessage()]
    assert len(lines) == 3
    assert host.renewals.failures["timeout"] >= 39


async def test_user_with_many_realms_has_few_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A user chooses the names of realms, and gets no more lines with many of them."""
    host = Host(most=100)
    for number in range(60):
        realm = f"krbtgt/R{number}@R{number}"
        await host.fill(b"%d" % number, tgt(server=principal(realm), client=principal(f"a@R{number}")))
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        for count in range(60):
            await host.renewals.hand_back(client.offers[count].id, Failure("unreachable"))
            await host.at(NOW + 50, client)
    lines = [each.getMessage() for each in caplog.records if "not renewed" in each.getMessage()]
    assert len(lines) == 10
