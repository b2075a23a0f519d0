"""How many connections there may be: the longest idle one gives way, and never one that is under way."""

import asyncio
import logging

import pytest

from pykcm.server.connections import Connections, Limits
from tests.server.members import FakeConnection

UID, OTHER, THIRD = 1000, 2000, 3000


def never() -> None:
    raise AssertionError("there is no idle time")


def limited(**limits: int) -> Connections:
    return Connections(0, never, Limits(**limits))


def filled(
    connections: Connections, uid: int, *idle_since: float | None, pid: int = 0, is_mits: bool = False
) -> list[FakeConnection]:
    """Connections that are added, one for each time since which it is idle."""
    members = [
        FakeConnection(connections, uid, pid=pid, is_mits=is_mits, idle_since=since) for since in idle_since
    ]
    assert all(connections.add(member) for member in members)
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
    """A connection that is under way does not give way: where all are, the new one is refused."""
    connections = limited(**limits)
    own = filled(connections, UID, None, None)
    refused = FakeConnection(connections, UID)
    assert not connections.add(refused)
    # The event loop tells of its end like of any other's.
    connections.discard(refused)
    own[1].idle_since = 1.0
    filled(connections, UID, None)
    assert gave_way([*own, refused]) == [False, True, False]


def test_what_has_arrived_is_under_way() -> None:
    """A connection whose client has sent what the loop has not brought yet does not give way."""
    connections = limited(uid_connections=2)
    own = filled(connections, UID, 1.0, 2.0)
    own[0].has_unread = True
    (third,) = filled(connections, UID, 3.0)
    assert gave_way([*own, third]) == [False, True, False]
    third.has_unread = True
    assert not connections.add(FakeConnection(connections, UID))
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
    assert connections._count == 5


def test_who_keeps_all_busy_keeps_nobody_out() -> None:
    """Where the UID with the most has none idle, the next one gives way to somebody who comes."""
    connections = limited(connections=4)
    busy = filled(connections, UID, None, None, None)
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
    assert connections._open == {}
    assert connections._count == 0


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
    assert not connections.add(FakeConnection(connections, OTHER))
    assert not connections.add(FakeConnection(connections, OTHER))
    assert [record.getMessage() for record in caplog.records] == [
        "UID 1000: max_uid_connections (2) reached: an idle connection of UID 1000 (process 0) was closed",
        "UID 2000: connection refused: max_uid_connections (2) reached, and each has a request under way",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert [vars(record)["KCM_UID"] for record in caplog.records] == [UID, OTHER]


def test_the_log_tells_who_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Everyone who is refused is named, also when room was made for them, or others refused, before."""
    connections = limited(connections=2)
    filled(connections, UID, None, 1.0)
    filled(connections, OTHER, None)
    for uid in (OTHER, THIRD, OTHER, THIRD):
        assert not connections.add(FakeConnection(connections, uid))
    assert [vars(record)["KCM_UID"] for record in caplog.records] == [OTHER, OTHER, THIRD]


def test_the_log_tells_of_the_limit_of_all(caplog: pytest.LogCaptureFixture) -> None:
    """Who has the most, and who came."""
    connections = limited(connections=3)
    filled(connections, UID, 1.0, 2.0, 3.0)
    filled(connections, OTHER, 1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "UID 2000: max_connections (3) reached: an idle connection of UID 1000 (process 0) was closed"
    ]


# Bytes


def test_bytes_of_a_uid() -> None:
    """A UID may hold as many bytes as the limit, on all its connections together, and no more."""
    connections = limited(uid_bytes=100)
    assert connections.hold(UID, 60)
    assert connections.hold(UID, 40)
    assert connections.hold(OTHER, 100)
    assert not connections.hold(UID, 1)
    connections.hold(UID, -1)
    connections.hold(UID, -40)
    assert connections.hold(UID, 40)
    for uid, held in ((UID, 100), (OTHER, 100)):
        connections.hold(uid, -held)
    assert connections._bytes == {}


def test_bytes_without_a_limit() -> None:
    """0 is no limit."""
    assert limited().hold(UID, 1 << 40)


def test_bytes_that_a_uid_leaves_untaken() -> None:
    """What is owed to a UID is bounded by itself, and given back."""
    connections = limited(uid_unread=100, uid_bytes=10)
    assert connections.owe(UID, 60)
    assert connections.owe(UID, 40)
    assert connections.owe(OTHER, 100)
    assert not connections.owe(UID, 1)
    assert connections.owe(UID, -41)
    assert connections.owe(UID, -60)
    assert connections.owe(OTHER, -100)
    assert connections._unread == {}
