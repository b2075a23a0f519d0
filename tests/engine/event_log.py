"""The events of a server."""

from typing import Any

from pykcm.control.snapshots import unconstrained_default
from pykcm.engine.events import Event, Watch
from tests.server.asking import Server


class EventLog(list[Event]):
    """A watcher: the events of a server."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        server.engine.watchers.append(Watch(self.append, unconstrained_default))

    def take(self) -> list[tuple[Any, ...]]:
        """Kind, ccache and reason of each since the last call."""
        taken = [(each.kind, each.ccache, each.reason) for each in self]
        self.clear()
        return taken
