"""Connections as the collection of all of them sees them: without a socket, in whatever state a test says."""

from pykcm.server.connection import State
from pykcm.server.connections import Connections


class FakeConnection:
    """Closes when it is told to, if it is a good one."""

    def __init__(
        self,
        connections: Connections,
        uid: int = 1000,
        *,
        pid: int = 0,
        is_mits: bool = False,
        last_heard: float = 0.0,
        state: State = State.IDLE,
        has_unread: bool = False,
        held: int = 0,
        owed: int = 0,
        good: bool = True,
    ) -> None:
        self.connections = connections
        self.uid = uid
        self.pid = pid
        self.is_mits = is_mits
        self.last_heard = last_heard
        self.state = state
        self.has_unread = has_unread
        self.held = held
        self.owed = owed
        self.good = good
        self.gave_way = False
        self.was_aborted = False
        self.was_finished = False
        self.broke: list[str] = []

    def give_way(self) -> None:
        self.gave_way = True

    def break_off(self, limit: str, why: str) -> None:
        self.broke.append(limit)

    def finish(self) -> None:
        self.was_finished = True
        if self.good:
            self.connections.discard(self)

    def abort(self) -> None:
        self.was_aborted = True
