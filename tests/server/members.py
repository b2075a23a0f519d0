"""Connections without sockets, as the limits see them: each in the state that a test says."""

from pykcm.server.connection import State
from pykcm.server.connections import Connections, Limits

UID, OTHER, THIRD = 1000, 2000, 3000
BUSY = State.SERVING


class FakeConnection:
    """A connection of any state; `good`: it closes when it is told to finish."""

    def __init__(
        self,
        connections: Connections,
        uid: int = UID,
        *,
        pid: int = 0,
        is_mits: bool = False,
        last_heard: float = 0.0,
        state: State = State.IDLE,
        good: bool = True,
    ) -> None:
        self.connections = connections
        self.uid = uid
        self.pid = pid
        self.is_mits = is_mits
        self.last_heard = last_heard
        self.state = state
        self.has_unread = False
        self.request_memory = 0
        self.reply_memory = 0
        self.good = good
        self.gave_way = False
        self.was_aborted = False
        self.was_finished = False

    def give_way(self) -> None:
        self.gave_way = True

    def break_off(self, limit: str, reason: str) -> None:
        raise AssertionError(f"{limit}: {reason}")

    def finish(self) -> None:
        self.was_finished = True
        if self.good:
            self.connections.discard(self)

    def abort(self) -> None:
        self.was_aborted = True


def never() -> None:
    raise AssertionError("there is no idle time")


def limited(**limits: int) -> Connections:
    """Connections under these limits."""
    return Connections(0, never, Limits(**limits))


def filled(
    connections: Connections, uid: int, *each: float | State, pid: int = 0, is_mits: bool = False
) -> list[FakeConnection]:
    """Add connections of the UID: one for each time since which it is idle, or state that it is in."""
    members = []
    for number, one in enumerate(each):
        state, heard = (one, float(number)) if isinstance(one, State) else (State.IDLE, one)
        assert connections.has_room(uid)
        member = FakeConnection(connections, uid, pid=pid, is_mits=is_mits, state=state, last_heard=heard)
        connections.add(member)
        members.append(member)
    return members


def gave_way(members: list[FakeConnection]) -> list[bool]:
    """Whether each of these connections has given way."""
    return [member.gave_way for member in members]
