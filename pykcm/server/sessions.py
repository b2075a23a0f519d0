"""Sessions: the default that a client was given or has chosen, while its connections are open.

A process that was given a default without a ccache is about to create that ccache. sshd chooses such a name
and creates the ccache afterwards. Meanwhile no other ccache takes the default's place for that process.
"""

from collections.abc import Callable

from pykcm.peer.identity import Peer


class Process:
    """A process of a UID, identified by its PID at the time it connected.

    `default`: the name that it last chose or was given. `is_missing`: as far as the process knows, no ccache
    has that name. `sessions`: those of its connections.
    """

    __slots__ = ("default", "is_missing", "sessions")

    def __init__(self) -> None:
        # A dictionary, because it keeps the order.
        self.sessions: dict[Session, None] = {}
        self.default: bytes | None = None
        self.is_missing = False


class Session:
    """The session of one connection.

    `given_default`: the name that GET_DEFAULT_CACHE returned last. `has_gone`: whether the client has closed
    the connection, even if the server has not noticed yet.
    """

    __slots__ = ("given_default", "has_gone", "key", "process")

    def __init__(
        self,
        key: tuple[int, int] = (0, 0),
        process: Process | None = None,
        has_gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.key = key
        self.process = process or Process()
        self.has_gone = has_gone
        self.given_default: bytes | None = None

    @property
    def state(self) -> tuple[bytes | None, bytes | None, bool]:
        """The part of the session that an operation may change."""
        return self.given_default, self.process.default, self.process.is_missing

    @state.setter
    def state(self, state: tuple[bytes | None, bytes | None, bool]) -> None:
        self.given_default, self.process.default, self.process.is_missing = state

    def chose(self, name: bytes, *, exists: bool) -> None:
        """Note that the process has chosen this default, or was given the chosen one."""
        self.process.default = name
        self.process.is_missing = not exists

    def filled(self, name: bytes) -> None:
        """Note that the process has created or overwritten the ccache."""
        if name == self.process.default:
            self.process.is_missing = False

    def destroyed(self, name: bytes) -> None:
        """Note that the process has destroyed the ccache."""
        if name == self.process.default:
            self.process.is_missing = True

    def awaits(self, name: bytes) -> bool:
        """Whether the process uses this default although no ccache has the name.

        False after others removed the ccache: the process does not know that, and gets another ccache.
        """
        return self.process.is_missing and self.process.default == name


def _gone() -> bool:
    return True


class Sessions:
    """The sessions of all open connections. There are never more processes than connections."""

    def __init__(self) -> None:
        self._processes: dict[tuple[int, int], Process] = {}

    def __len__(self) -> int:
        """The number of processes with open connections."""
        return len(self._processes)

    def open(self, peer: Peer, has_gone: Callable[[], bool] = lambda: False) -> Session:
        """Open the session of a connection. A process of another PID namespace (PID 0) has only this one."""
        key = (peer.uid, peer.pid)
        process = self._processes.get(key) if peer.pid else None
        # A process that has closed all its connections begins again when it connects. The server may not have
        # noticed the ends of the earlier connections yet, because it notices them in their UID's queue.
        if process is None or (
            process.default is not None and all(session.has_gone() for session in process.sessions)
        ):
            process = Process()
            if peer.pid:
                self._processes[key] = process
        session = Session(key, process, has_gone)
        process.sessions[session] = None
        return session

    def close(self, session: Session) -> None:
        """Close the session, and forget the process with its last one. Closing again does nothing."""
        process = session.process
        process.sessions.pop(session, None)
        # The session must not keep the connection in memory.
        session.has_gone = _gone
        if not process.sessions and self._processes.get(session.key) is process:
            del self._processes[session.key]
