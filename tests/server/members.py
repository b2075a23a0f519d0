"""Connections as the collection of all of them sees them: without a socket, and idle when a test says so."""

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
        idle_since: float | None = None,
        has_unread: bool = False,
        good: bool = True,
    ) -> None:
        self.connections = connections
        self.uid = uid
        self.pid = pid
        self.is_mits = is_mits
        self.idle_since = idle_since
        self.has_unread = has_unread
        self.good = good
        self.gave_way = False
        self.was_aborted = False
        self.was_finished = False

    def give_way(self) -> None:
        self.gave_way = True

    def finish(self) -> None:
        self.was_finished = True
        if self.good:
            self.connections.discard(self)

    def abort(self) -> None:
        self.was_aborted = True
