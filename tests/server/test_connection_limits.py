"""Limits on the number of connections: which one gives way, and who is refused."""

import logging

import pytest

from pykcm.server.connection import State
from pykcm.server.connections import Connections, Limits
from tests.server.members import BUSY, OTHER, THIRD, UID, filled, gave_way, limited, never

# Idle connections


def test_longest_idle_connection_of_a_uid_gives_way() -> None:
    """At max_uid_connections the UID's longest idle connection gives way, in whatever order they came."""
    connections = limited(uid_connections=3)
    others = filled(connections, OTHER, 0.5, 0.1)
    own = filled(connections, UID, 7.0, 5.0, 6.0)
    (fourth,) = filled(connections, UID, 8.0)
    assert gave_way(own) == [False, True, False]
    (fifth,) = filled(connections, UID, 9.0)
    assert gave_way(own) == [False, True, True]
    assert gave_way([*others, fourth, fifth]) == [False] * 4
    # When they are reported as closed later, nothing changes.
    for member in own[1:]:
        connections.discard(member)
    filled(connections, OTHER, 10.0)
    assert gave_way([*others, fourth, fifth]) == [False] * 4


def test_limit_of_one_connection_keeps_the_newest() -> None:
    """If a UID may have one connection, it is the newest."""
    connections = limited(uid_connections=1)
    (first,) = filled(connections, UID, 1.0)
    (second,) = filled(connections, UID, 2.0)
    (other,) = filled(connections, OTHER, 1.0)
    assert gave_way([first, second, other]) == [True, False, False]


@pytest.mark.parametrize("limits", [{"uid_connections": 2}, {"connections": 2}], ids=["uid", "all"])
def test_connection_with_a_request_in_progress_is_kept(limits: dict[str, int]) -> None:
    """A connection with a request in progress does not give way; if all have one, the new one is refused."""
    connections = limited(**limits)
    own = filled(connections, UID, BUSY, BUSY)
    assert not connections.has_room(UID)
    own[1].state = State.IDLE
    filled(connections, UID, BUSY)
    assert gave_way(own) == [False, True]


def test_connection_with_unread_data_is_kept() -> None:
    """A connection whose client has sent data that is not read yet does not give way."""
    connections = limited(uid_connections=2)
    own = filled(connections, UID, 1.0, 2.0)
    own[0].has_unread = True
    (third,) = filled(connections, UID, 3.0)
    assert gave_way([*own, third]) == [False, True, False]
    third.has_unread = True
    assert not connections.has_room(UID)
    assert gave_way([own[0], third]) == [False, False]


def test_mits_connections_give_way_first() -> None:
    """A connection known to be of MIT's client gives way before ones that are idle for longer."""
    connections = limited(uid_connections=4)
    unknown = filled(connections, UID, 1.0, 2.0)
    mits = filled(connections, UID, 4.0, 3.0, is_mits=True)
    for expected in ([False, True], [True, True]):
        filled(connections, UID, BUSY)
        assert gave_way(mits) == expected
    filled(connections, UID, BUSY)
    assert gave_way(unknown) == [True, False]


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
def test_connection_of_a_process_that_connected_again_gives_way_first(is_open: bool) -> None:
    """The same holds for a process that has connected again, whether or not its first connection is open."""
    connections = limited(uid_connections=4)
    (once,) = filled(connections, UID, 1.0, pid=100)
    (first,) = filled(connections, UID, BUSY, pid=200)
    if not is_open:
        connections.discard(first)
    (again,) = filled(connections, UID, 2.0, pid=200)
    filled(connections, UID, *[BUSY] * (4 - connections.open), pid=300)
    filled(connections, UID, BUSY, pid=400)
    assert gave_way([once, first, again]) == [False, False, True]


def test_connections_without_a_pid_are_of_different_processes() -> None:
    """Connections from other PID namespaces are not taken for those of one process."""
    connections = limited(uid_connections=3)
    (mits,) = filled(connections, UID, 3.0, is_mits=True)
    others = filled(connections, UID, 1.0, 2.0, pid=0)
    filled(connections, UID, BUSY)
    assert gave_way([mits, *others]) == [True, False, False]


def test_same_pid_of_another_uid_is_another_process() -> None:
    """The kernel reuses PIDs: a PID of another UID stands for another process."""
    connections = limited(uid_connections=2)
    filled(connections, OTHER, 1.0, pid=100)
    (reused,) = filled(connections, UID, 1.0, pid=100)
    (mits,) = filled(connections, UID, 2.0, pid=200, is_mits=True)
    filled(connections, UID, BUSY)
    assert gave_way([reused, mits]) == [False, True]


def test_remembered_processes_are_bounded() -> None:
    """The number of remembered processes is bounded; those that connected last are remembered."""
    connections = limited(uid_connections=2)
    for pid in range(1, 10_000):
        (connection,) = filled(connections, OTHER, 1.0, pid=pid)
        connections.discard(connection)
    assert len(connections._processes._have_connected_again) <= 4096
    (once,) = filled(connections, OTHER, 1.0, pid=1)
    (again,) = filled(connections, OTHER, 2.0, pid=9_999)
    filled(connections, OTHER, BUSY)
    assert gave_way([once, again]) == [False, True]


def test_number_of_connections_counts_before_the_client() -> None:
    """At max_connections the UID with the most gives way, even if another UID's connections are MIT's."""
    connections = limited(connections=3)
    most = filled(connections, UID, 1.0, 2.0)
    (mits,) = filled(connections, OTHER, 0.5, is_mits=True)
    filled(connections, THIRD, 3.0)
    assert gave_way([*most, mits]) == [True, False, False]


def test_uid_with_the_most_connections_gives_way() -> None:
    """At max_connections the UID with the most connections gives way to any other UID."""
    connections = limited(connections=5)
    others = filled(connections, OTHER, 1.0, 2.0)
    most = filled(connections, UID, 8.0, 7.0, 9.0)
    (third,) = filled(connections, THIRD, 10.0)
    assert gave_way(most) == [False, True, False]
    # Now UID and OTHER have two each; the longest idle one of either is closed.
    filled(connections, THIRD, 11.0)
    assert sorted([gave_way(most[::2]), gave_way(others)]) == [[False, False], [True, False]]
    assert not third.gave_way
    assert connections.open == 5


def test_idle_connection_of_another_uid_gives_way() -> None:
    """If one UID has no idle connection, that of another UID with as many gives way."""
    connections = limited(connections=2)
    (busy,) = filled(connections, UID, BUSY)
    (idle,) = filled(connections, OTHER, 1.0)
    filled(connections, THIRD, 2.0)
    assert idle.gave_way
    assert not busy.gave_way


def test_uid_at_its_limit_gives_way_itself() -> None:
    """A UID at its own limit gives way itself, even if the limit of all is reached, too."""
    connections = limited(connections=5, uid_connections=2)
    other = filled(connections, OTHER, 1.0, 2.0)
    third = filled(connections, THIRD, 0.5)
    own = filled(connections, UID, 8.0, 9.0)
    filled(connections, UID, 10.0)
    assert gave_way([*other, *third, *own]) == [False, False, False, True, False]


def test_zero_is_no_limit_on_connections() -> None:
    """With a limit of 0 any number of connections is accepted."""
    members = filled(limited(), UID, *range(5000))
    assert not any(gave_way(members))


def test_closed_connections_make_room() -> None:
    """The places of closed connections are free again; closing twice frees one place."""
    connections = limited(connections=2, uid_connections=2)
    for _ in range(5):
        for member in filled(connections, UID, BUSY, BUSY):
            connections.discard(member)
            connections.discard(member)
    assert connections.open == 0


async def test_making_room_starts_no_idle_timer() -> None:
    """If the only connection gives way to another one, no timer is left that would end the daemon."""
    connections = Connections(1e6, never, Limits(uid_connections=1))
    filled(connections, UID, 1.0)
    filled(connections, UID, 2.0)
    assert connections._timer is None
    assert await connections.finish(0) == 0


# The log


def test_log_names_the_limit_and_both_uids(caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute for each UID that connects and each outcome: the UIDs, the limit, the process."""
    connections = limited(connections=4, uid_connections=2)
    filled(connections, UID, 1.0, 2.0, 3.0, 4.0)
    filled(connections, OTHER, BUSY, BUSY)
    assert not connections.has_room(OTHER)
    assert not connections.has_room(OTHER)
    assert [record.getMessage() for record in caplog.records] == [
        "UID 1000: max_uid_connections (2) reached: an idle connection of UID 1000 (process 0) was closed",
        "UID 2000: connection refused: max_uid_connections (2) reached, and each has a request in progress",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert [vars(record)["KCM_UID"] for record in caplog.records] == [UID, OTHER]


def test_log_names_each_uid_that_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Each refused UID has a line, also if room was made for it or others were refused before."""
    connections = limited(connections=2)
    filled(connections, UID, BUSY, 1.0)
    filled(connections, OTHER, BUSY)
    for uid in (OTHER, THIRD, OTHER, THIRD):
        assert not connections.has_room(uid)
    assert [vars(record)["KCM_UID"] for record in caplog.records] == [OTHER, OTHER, THIRD]


def test_log_names_the_limit_of_all_connections(caplog: pytest.LogCaptureFixture) -> None:
    """At max_connections the line names the UID that connected and the UID that gave way."""
    connections = limited(connections=3)
    filled(connections, UID, 1.0, 2.0, 3.0)
    filled(connections, OTHER, 1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "UID 2000: max_connections (3) reached: an idle connection of UID 1000 (process 0) was closed"
    ]


# Requests in progress


@pytest.mark.parametrize("state", [State.RECEIVING, State.SENDING, State.REQUESTED, State.SERVING])
def test_uid_with_fewer_connections_takes_a_place(state: State) -> None:
    """At max_connections a UID with fewer takes a place of the UID with the most, even if none is idle."""
    connections = limited(connections=6)
    most = filled(connections, UID, *[state] * 4)
    others = filled(connections, OTHER, *[state] * 2)
    filled(connections, THIRD, BUSY)
    assert gave_way([*most, *others]) == [True, False, False, False, False, False]
    filled(connections, THIRD, BUSY)
    assert gave_way(most) == [True, True, False, False]
    # Two each: no UID has two fewer than another.
    assert not connections.has_room(THIRD)
    assert not connections.has_room(UID)


def test_least_loss_gives_way_first() -> None:
    """Incomplete requests give way before untaken replies, those before waiting and running requests."""
    connections = limited(connections=8)
    order: list[State | float] = [State.SERVING, State.REQUESTED, State.SENDING, State.RECEIVING, 7.0]
    members = filled(connections, UID, *order, *[BUSY] * 3)
    for gone in (4, 3, 2, 1):
        filled(connections, OTHER, BUSY)
        assert gave_way(members[:5]).index(True) == gone
        assert sum(gave_way(members)) == 5 - gone
    assert gave_way(members)[5:] == [False] * 3


def test_oldest_request_in_progress_gives_way_first() -> None:
    """Of requests in progress, that of the client heard of longest ago gives way."""
    connections = limited(connections=4)
    members = filled(connections, UID, *[State.RECEIVING] * 4)
    for member, heard in zip(members, (3.0, 1.0, 2.0, 4.0), strict=True):
        member.last_heard = heard
    filled(connections, OTHER, BUSY)
    assert gave_way(members) == [False, True, False, False]


def test_incomplete_requests_of_many_uids_keep_nobody_out() -> None:
    """If sixteen UIDs fill all places with incomplete requests, a UID with few connections gets in."""
    connections = limited(connections=16 * 16, uid_connections=16)
    for uid in range(5000, 5016):
        filled(connections, uid, *[State.RECEIVING] * 16)
    own = filled(connections, UID, *[BUSY] * 8)
    assert gave_way(own) == [False] * 8
    assert connections.open == 16 * 16


def test_idle_connections_of_smaller_uids_are_kept() -> None:
    """The UID with the most loses a request in progress before another UID loses an idle connection."""
    connections = limited(connections=5)
    most = filled(connections, UID, *[State.RECEIVING] * 3)
    idle = filled(connections, OTHER, 1.0, 2.0)
    filled(connections, THIRD, BUSY)
    assert gave_way(idle) == [False, False]
    assert sum(gave_way(most)) == 1


def test_uid_with_fewer_connections_loses_none() -> None:
    """UIDs that fill all places with incomplete requests cost no smaller UID an idle connection."""
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


def test_uid_makes_room_for_itself() -> None:
    """A UID with as many connections as any other gives up its own idle one."""
    connections = limited(connections=4)
    (own, _) = filled(connections, UID, 5.0, BUSY)
    others = filled(connections, OTHER, 1.0, 2.0)
    filled(connections, UID, BUSY)
    assert own.gave_way
    assert gave_way(others) == [False, False]


def test_root_has_places_beyond_the_limit() -> None:
    """Root has places of its own beyond max_connections, and no other UID gets them."""
    connections = limited(connections=2, for_root=2)
    members = filled(connections, UID, BUSY, BUSY)
    filled(connections, 0, BUSY, BUSY)
    assert gave_way(members) == [False, False]
    assert connections.open == 4
    assert not connections.has_room(UID)
