"""Limits on connections: the longest idle one gives way, and never one with a request in progress."""

import asyncio
import logging

import pytest

from pykcm.server.connection import State
from pykcm.server.connections import Connections, Limits
from tests.server.members import FakeConnection

UID, OTHER, THIRD = 1000, 2000, 3000


def never() -> None:
    raise AssertionError("there is no idle time")


def limited(**limits: int) -> Connections:
    return Connections(0, never, Limits(**limits))


BUSY = State.SERVING


def filled(
    connections: Connections,
    uid: int,
    *each: float | State | None,
    pid: int = 0,
    is_mits: bool = False,
) -> list[FakeConnection]:
    """Connections that are accepted, one for each time since which it is idle or state that it is in."""
    members = []
    for number, one in enumerate(each):
        state, heard = (State.IDLE, one) if isinstance(one, int | float) else (one or BUSY, float(number))
        assert connections.has_room(uid)
        member = FakeConnection(connections, uid, pid=pid, is_mits=is_mits, state=state, last_heard=heard)
        connections.add(member)
        members.append(member)
    return members


def gave_way(members: list[FakeConnection]) -> list[bool]:
    return [member.gave_way for member in members]


def test_a_uids_longest_idle_one_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    """At max_uid_connections the UID's longest idle one is closed at once, whatever order they came in."""
    connections = limited(uid_connections=3)
    others = filled(connections, OTHER, 0.5, 0.1)
    own = filled(connections, UID, 7.0, 5.0, 6.0)
    (fourth,) = filled(connections, UID, 8.0)
    assert gave_way(own) == [False, True, False]
    (fifth,) = filled(connections, UID, 9.0)
    assert gave_way(own) == [False, True, True]
    assert gave_way([*others, fourth, fifth]) == [False] * 4
    # Its end, which the event loop tells later, counts for nothing any more.
    for member in own[1:]:
        connections.discard(member)
    filled(connections, OTHER, 10.0)
    assert gave_way([*others, fourth, fifth]) == [False] * 4


def test_one_connection_may_be_the_limit() -> None:
    """Where a UID may have one connection, the newest is the one."""
    connections = limited(uid_connections=1)
    (first,) = filled(connections, UID, 1.0)
    (second,) = filled(connections, UID, 2.0)
    (other,) = filled(connections, OTHER, 1.0)
    assert gave_way([first, second, other]) == [True, False, False]


@pytest.mark.parametrize("limits", [{"uid_connections": 2}, {"connections": 2}], ids=["uid", "all"])
def test_under_way(limits: dict[str, int]) -> None:
    """A connection with a request in progress does not give way; if all have one, the new one is refused."""
    connections = limited(**limits)
    own = filled(connections, UID, None, None)
    assert not connections.has_room(UID)
    own[1].state = State.IDLE
    filled(connections, UID, None)
    assert gave_way(own) == [False, True]


def test_what_has_arrived_is_under_way() -> None:
    """A connection whose client has sent what the loop has not brought yet does not give way."""
    connections = limited(uid_connections=2)
    own = filled(connections, UID, 1.0, 2.0)
    own[0].has_unread = True
    (third,) = filled(connections, UID, 3.0)
    assert gave_way([*own, third]) == [False, True, False]
    third.has_unread = True
    assert not connections.has_room(UID)
    assert gave_way([own[0], third]) == [False, False]


def test_mits_connections_give_way_first() -> None:
    """A connection whose requests have shown MIT's client gives way before ones that are idle for longer."""
    connections = limited(uid_connections=4)
    unknown = filled(connections, UID, 1.0, 2.0)
    mits = filled(connections, UID, 4.0, 3.0)
    for member in mits:
        member.is_mits = True
    for expected in ([False, True], [True, True]):
        filled(connections, UID, None)
        assert gave_way(mits) == expected
    filled(connections, UID, None)
    assert gave_way(unknown) == [True, False]


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
def test_a_process_that_has_connected_again_gives_way_first(is_open: bool) -> None:
    """So does one of a process that has connected more than once, whether or not its first one is open."""
    connections = limited(uid_connections=4)
    (once,) = filled(connections, UID, 1.0, pid=100)
    (first,) = filled(connections, UID, None, pid=200)
    if not is_open:
        connections.discard(first)
    (again,) = filled(connections, UID, 2.0, pid=200)
    filled(connections, UID, *[None] * (4 - connections.open), pid=300)
    filled(connections, UID, None, pid=400)
    assert gave_way([once, first, again]) == [False, False, True]


def test_processes_that_are_not_known() -> None:
    """Connections of processes in other PID namespaces are those of one process by no means."""
    connections = limited(uid_connections=3)
    (mits,) = filled(connections, UID, 3.0, is_mits=True)
    others = filled(connections, UID, 1.0, 2.0, pid=0)
    filled(connections, UID, None)
    assert gave_way([mits, *others]) == [True, False, False]


def test_the_same_pid_of_another_uid() -> None:
    """A process of another UID says nothing about this one's: a PID is given out again."""
    connections = limited(uid_connections=2)
    filled(connections, OTHER, 1.0, pid=100)
    (reused,) = filled(connections, UID, 1.0, pid=100)
    (mits,) = filled(connections, UID, 2.0, pid=200, is_mits=True)
    filled(connections, UID, None)
    assert gave_way([reused, mits]) == [False, True]


def test_processes_are_forgotten() -> None:
    """What is remembered of processes does not grow with them; those that connected last are remembered."""
    connections = limited(uid_connections=2)
    for pid in range(1, 10_000):
        (connection,) = filled(connections, OTHER, 1.0, pid=pid)
        connections.discard(connection)
    assert len(connections._processes._have_connected_again) <= 4096
    (once,) = filled(connections, OTHER, 1.0, pid=1)
    (again,) = filled(connections, OTHER, 2.0, pid=9_999)
    filled(connections, OTHER, None)
    assert gave_way([once, again]) == [False, True]


def test_fairness_goes_before_the_client() -> None:
    """At max_connections the UID with the most gives way, though another one's connections are MIT's."""
    connections = limited(connections=3)
    most = filled(connections, UID, 1.0, 2.0)
    (mits,) = filled(connections, OTHER, 0.5, is_mits=True)
    filled(connections, THIRD, 3.0)
    assert gave_way([*most, mits]) == [True, False, False]


def test_who_has_the_most_gives_way() -> None:
    """At max_connections the UID with the most gives way, whoever asks, and nobody else."""
    connections = limited(connections=5)
    others = filled(connections, OTHER, 1.0, 2.0)
    most = filled(connections, UID, 8.0, 7.0, 9.0)
    (third,) = filled(connections, THIRD, 10.0)
    assert gave_way(most) == [False, True, False]
    # Now UID and OTHER have two each; whoever it is, one is closed, and the longest idle one.
    filled(connections, THIRD, 11.0)
    assert sorted([gave_way(most[::2]), gave_way(others)]) == [[False, False], [True, False]]
    assert not third.gave_way
    assert connections.open == 5


def test_who_keeps_all_busy_keeps_nobody_out() -> None:
    """Where a UID with no more than others has none idle, another one's idle one gives way."""
    connections = limited(connections=2)
    busy = filled(connections, UID, None)
    (idle,) = filled(connections, OTHER, 1.0)
    filled(connections, THIRD, 2.0)
    assert idle.gave_way
    assert not any(gave_way(busy))


def test_both_limits() -> None:
    """A UID at its own limit gives way itself, though the limit of all is reached, too."""
    connections = limited(connections=5, uid_connections=2)
    other = filled(connections, OTHER, 1.0, 2.0)
    third = filled(connections, THIRD, 0.5)
    own = filled(connections, UID, 8.0, 9.0)
    filled(connections, UID, 10.0)
    assert gave_way([*other, *third, *own]) == [False, False, False, True, False]


def test_no_limit() -> None:
    """0 is no limit."""
    connections = limited()
    members = filled(connections, UID, *range(5000))
    assert not any(gave_way(members))


def test_room_is_given_back() -> None:
    """Connections that are closed make room for others."""
    connections = limited(connections=2, uid_connections=2)
    for _ in range(5):
        members = filled(connections, UID, None, None)
        for member in members:
            connections.discard(member)
            connections.discard(member)
    assert connections.open == 0


def test_making_room_is_no_idle_time() -> None:
    """The only connection giving way to another one leaves no time running that would end the daemon."""

    async def scenario() -> None:
        connections = Connections(1e6, never, Limits(uid_connections=1))
        filled(connections, UID, 1.0)
        filled(connections, UID, 2.0)
        assert connections._timer is None
        assert await connections.finish(0) == 0

    asyncio.run(scenario())


def test_the_log_tells_who(caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute for each UID that comes and each outcome: who came, which limit, and who gave way."""
    connections = limited(connections=4, uid_connections=2)
    filled(connections, UID, 1.0, 2.0, 3.0, 4.0)
    filled(connections, OTHER, None, None)
    assert not connections.has_room(OTHER)
    assert not connections.has_room(OTHER)
    assert [record.getMessage() for record in caplog.records] == [
        "UID 1000: max_uid_connections (2) reached: an idle connection of UID 1000 (process 0) was closed",
        "UID 2000: connection refused: max_uid_connections (2) reached, and each has a request in progress",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert [vars(record)["KCM_UID"] for record in caplog.records] == [UID, OTHER]


def test_the_log_tells_who_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Everyone who is refused is named, also when room was made for them, or others refused, before."""
    connections = limited(connections=2)
    filled(connections, UID, None, 1.0)
    filled(connections, OTHER, None)
    for uid in (OTHER, THIRD, OTHER, THIRD):
        assert not connections.has_room(uid)
    assert [vars(record)["KCM_UID"] for record in caplog.records] == [OTHER, OTHER, THIRD]


def test_the_log_tells_of_the_limit_of_all(caplog: pytest.LogCaptureFixture) -> None:
    """Who has the most, and who came."""
    connections = limited(connections=3)
    filled(connections, UID, 1.0, 2.0, 3.0)
    filled(connections, OTHER, 1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "UID 2000: max_connections (3) reached: an idle connection of UID 1000 (process 0) was closed"
    ]


# Requests in progress


@pytest.mark.parametrize("state", [State.RECEIVING, State.SENDING, State.REQUESTED, State.SERVING])
def test_a_uid_with_fewer_takes_a_place(state: State) -> None:
    """At max_connections a UID with fewer takes a place of the UID with the most, though none is idle."""
    connections = limited(connections=6)
    most = filled(connections, UID, *[state] * 4)
    others = filled(connections, OTHER, *[state] * 2)
    filled(connections, THIRD, BUSY)
    assert gave_way([*most, *others]) == [True, False, False, False, False, False]
    filled(connections, THIRD, BUSY)
    assert gave_way(most) == [True, True, False, False]
    # Two each: nobody has fewer by more than the one that is taken.
    assert not connections.has_room(THIRD)
    assert not connections.has_room(UID)


def test_what_is_least_lost_gives_way_first() -> None:
    """Incomplete requests give way before untaken replies, those before waiting and running requests."""
    connections = limited(connections=8)
    order: list[State | float] = [State.SERVING, State.REQUESTED, State.SENDING, State.RECEIVING, 7.0]
    members = filled(connections, UID, *order, *[BUSY] * 3)
    for gone in (4, 3, 2, 1):
        filled(connections, OTHER, BUSY)
        assert gave_way(members[:5]).index(True) == gone
        members[gone].gave_way = True
        assert sum(gave_way(members)) == 5 - gone
    assert gave_way(members)[5:] == [False] * 3


def test_the_oldest_gives_way_first() -> None:
    """Of requests in progress the one whose client was heard of longest ago gives way."""
    connections = limited(connections=4)
    members = filled(connections, UID, *[State.RECEIVING] * 4)
    for member, heard in zip(members, (3.0, 1.0, 2.0, 4.0), strict=True):
        member.last_heard = heard
    filled(connections, OTHER, BUSY)
    assert gave_way(members) == [False, True, False, False]


def test_half_requests_of_many_uids() -> None:
    """Sixteen UIDs that fill all places with half requests keep out nobody who has few."""
    connections = limited(connections=16 * 16, uid_connections=16)
    for uid in range(5000, 5016):
        filled(connections, uid, *[State.RECEIVING] * 16)
    own = filled(connections, UID, *[BUSY] * 8)
    assert gave_way(own) == [False] * 8
    assert connections.open == 16 * 16


def test_idle_ones_of_others_are_kept() -> None:
    """The UID with the most loses a request in progress before anybody else loses an idle connection."""
    connections = limited(connections=5)
    most = filled(connections, UID, *[State.RECEIVING] * 3)
    idle = filled(connections, OTHER, 1.0, 2.0)
    filled(connections, THIRD, BUSY)
    assert gave_way(idle) == [False, False]
    assert sum(gave_way(most)) == 1


def test_who_has_fewer_loses_nothing() -> None:
    """UIDs that fill all places with half requests, again and again, cost nobody else an idle connection."""
    connections = limited(connections=9)
    (idle,) = filled(connections, THIRD, 1.0)
    for uid in (UID, OTHER):
        filled(connections, uid, *[State.RECEIVING] * 4)
    for uid in (UID, OTHER):
        assert not connections.has_room(uid)
    assert not idle.gave_way
    filled(connections, THIRD, BUSY)
    assert not connections.has_room(OTHER)
    assert not idle.gave_way


def test_ones_own_idle_connection_gives_way() -> None:
    """A UID that has as many as all others makes room for itself."""
    connections = limited(connections=4)
    (own, _) = filled(connections, UID, 5.0, BUSY)
    others = filled(connections, OTHER, 1.0, 2.0)
    filled(connections, UID, BUSY)
    assert own.gave_way
    assert gave_way(others) == [False, False]


def test_root_always_gets_in() -> None:
    """Root has places of its own beyond max_connections, and no other UID has them."""
    connections = limited(connections=2, for_root=2)
    members = filled(connections, UID, BUSY, BUSY)
    filled(connections, 0, BUSY, BUSY)
    assert gave_way(members) == [False, False]
    assert connections.open == 4
    assert not connections.has_room(UID)


# Bytes


def holding(connections: Connections, uid: int, *sizes: int) -> list[FakeConnection]:
    members = []
    for size in sizes:
        (member,) = filled(connections, uid, State.RECEIVING)
        member.held = member.owed = size
        assert connections.hold(member, size) is None
        assert connections.owe(member, size) is None
        members.append(member)
    return members


@pytest.mark.parametrize("kind", ["hold", "owe"])
def test_bytes_of_a_uid(kind: str) -> None:
    """A UID may hold as many bytes as the limit, on all its connections together; who exceeds it loses."""
    connections = limited(uid_bytes=100, uid_unread=100)
    own = holding(connections, UID, 60, 40)
    (other,) = holding(connections, OTHER, 100)
    count = getattr(connections, kind)
    assert count(own[0], 1) is own[0]
    assert count(own[0], -2) is None
    assert count(own[1], 1) is None
    assert count(other, -100) is None


@pytest.mark.parametrize("kind", ["hold", "owe"])
def test_bytes_of_all(kind: str) -> None:
    """Where all together hold too much, the greatest holder of the UID that holds the most loses."""
    connections = limited(bytes=100, uid_bytes=80, unread=100, uid_unread=80)
    most = holding(connections, UID, 10, 35, 15)
    (other,) = holding(connections, OTHER, 40)
    count = getattr(connections, kind)
    assert count(other, 5) is most[1]
    # One that is carried out keeps its memory all the same.
    most[1].state = State.SERVING
    assert count(other, 5) is most[2]
    assert count(most[0], 5) is most[0]


def test_bytes_without_a_limit() -> None:
    """0 is no limit."""
    connections = limited()
    (member,) = filled(connections, UID, BUSY)
    assert connections.hold(member, 1 << 40) is None


def test_bytes_are_given_back() -> None:
    """What is counted is the sum of all, and nothing when all is given back."""
    connections = limited()
    members = [*holding(connections, UID, 60, 40), *holding(connections, OTHER, 7)]
    assert (connections.held, connections.owed) == (107, 107)
    for member in members:
        connections.hold(member, -member.held)
        connections.owe(member, -member.owed)
    assert (connections.held, connections.owed) == (0, 0)
    assert connections.requests.of(UID) == connections.replies.of(OTHER) == 0
