"""Accepts connections, a few at a time, so that connected clients are served in between.

The kernel has one backlog for all UIDs. It is short, and is emptied fast, because accepting reads nothing. If
a UID connects faster than that, some of its connections are served, and the others are closed at once.
"""

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Protocol

from pykcm.logs import LimitedLog
from pykcm.sockets.bound_socket import BACKLOG

log = logging.getLogger(__name__)

_FAILURES = LimitedLog(log, "connections not accepted", 1)

# In seconds and connections: one turn of accepting. After it the event loop serves the open connections.
_TURN = 0.002
_TURN_CONNECTIONS = 128

# In seconds: the pause when no descriptor or memory is left.
_PAUSE = 0.05

_NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Reception(Protocol):
    """Receives the connections of one listening socket."""

    def take(self, sock: socket.socket) -> None:
        """Serve the connection, or close it."""

    def caught_up(self) -> None:
        """Every waiting connection has been accepted."""

    async def settled(self) -> None:
        """Return when every connection taken up to now can be ended in order."""


class Acceptor:
    """Accepts the connections of one listening socket; does not open or close that socket."""

    def __init__(
        self, listening: socket.socket, reception: Reception, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._listening = listening
        self._reception = reception
        self._clock = clock
        self._pause: asyncio.TimerHandle | None = None
        self._backlog = select.poll()
        self._backlog.register(listening, select.POLLIN)

    def begin(self) -> None:
        """Accept connections, those that waited longest first."""
        self._pause = None
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def stop(self) -> None:
        """Stop accepting: clients that connect from now on wait in the backlog."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        asyncio.get_running_loop().remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        end = self._clock() + _TURN
        for _ in range(_TURN_CONNECTIONS):
            try:
                sock, _ = self._listening.accept()
            except BlockingIOError:
                self._reception.caught_up()
                return
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    self._pause_accepting(error)
                    return
                continue  # the client has already gone
            self._reception.take(sock)
            # An accept that finds no client takes 4.4 µs, this 0.6 µs.
            if not self._backlog.poll(0):
                self._reception.caught_up()
                return
            if self._clock() > end:
                return

    def _pause_accepting(self, error: OSError) -> None:
        """Accept nothing for a while: descriptors may be free again then. Clients wait in the backlog."""
        _FAILURES.write(
            logging.ERROR, None, "connections have to wait: none can be accepted: %s", error.strerror
        )
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening.fileno())
        self._pause = loop.call_later(_PAUSE, self.begin)


# In seconds: connections of a UID are counted in windows of this length, while the backlog is not empty.
_WINDOW = 0.1


class AcceptRates:
    """Limits how many connections a UID gets in a tenth of a second while the backlog is not empty."""

    def __init__(self, limit: int, clock: Callable[[], float] = perf_counter) -> None:
        self._limit = limit
        self._clock = clock
        self._counts: dict[int, int] = {}
        self._began = 0.0

    def caught_up(self) -> None:
        """The backlog is empty: connections are not limited."""
        self._counts.clear()

    def count(self, uid: int) -> int:
        """Count one connection of the UID; return by how many the limit is exceeded, including this one."""
        counts = self._counts
        if not counts or self._clock() - self._began > _WINDOW:
            counts.clear()
            self._began = self._clock()
        count = counts[uid] = counts.get(uid, 0) + 1
        return max(0, count - self._limit)


class TransportReception:
    """Makes a transport and a protocol for each connection, as an asyncio server does."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._connecting: set[asyncio.Task[None]] = set()

    def take(self, sock: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(sock))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, sock)
        except OSError:
            sock.close()

    def caught_up(self) -> None:
        """Nothing to do: the control socket has no limited rate."""

    async def settled(self) -> None:
        if self._connecting:
            await asyncio.wait(self._connecting)


class Listener:
    """The listening sockets, each with the reception of its connections; can stop and begin again."""

    def __init__(self, sockets: Sequence[tuple[socket.socket, Reception]]) -> None:
        self._sockets = sockets
        self._acceptors = [Acceptor(sock, reception) for sock, reception in sockets]

    def begin(self) -> None:
        """Accept connections, those that waited longest first."""
        for sock, _ in self._sockets:
            # Also on systemd's sockets: the kernel then names the daemon as the listening process.
            sock.listen(BACKLOG)
        for acceptor in self._acceptors:
            acceptor.begin()

    async def stop(self) -> None:
        """Stop accepting; return when all accepted connections are served or closed."""
        for acceptor in self._acceptors:
            acceptor.stop()
        for _, reception in self._sockets:
            await reception.settled()

    def close(self) -> None:
        """Close the sockets."""
        for sock, _ in self._sockets:
            sock.close()
