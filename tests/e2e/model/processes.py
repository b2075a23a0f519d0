"""Processes of several UIDs that connect to a daemon, and hand their connections over.

The kernel tells the daemon who connected, whoever uses the connection afterwards.
"""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tests.e2e.daemon import LIMIT

from .collections_model import Asker, Process


class ConnectingProcess:
    """A process of this UID. `state` is what the model remembers of it while it has a connection."""

    def __init__(self, uid: int, path: Path) -> None:
        self.uid = uid
        self.state = Process()
        self.connections: list[Connection] = []
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(LIMIT)
        self._pid = os.fork()
        if not self._pid:
            _in_child(lambda: _connect_for_ever(theirs, uid, path))
        theirs.close()

    def connect(self) -> "Connection":
        self._ours.send(b"c")
        _, (fd,), _, _ = socket.recv_fds(self._ours, 1, 1)
        connection = Connection(self, socket.socket(fileno=fd))
        self.connections.append(connection)
        return connection

    def end(self) -> None:
        self.drop_connections()
        self._ours.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def drop_connections(self) -> None:
        for connection in list(self.connections):
            connection.close()


class Connection:
    """One connection, used by the test."""

    def __init__(self, process: ConnectingProcess, sock: socket.socket) -> None:
        self.process = process
        self.asker = Asker(process.uid, process.state)
        self._socket = sock
        self._socket.settimeout(LIMIT)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, size: int) -> bytes:
        """So many bytes; fewer where the daemon has ended."""
        received = bytearray()
        while len(received) < size:
            try:
                piece = self._socket.recv(size - len(received))
            except ConnectionResetError:
                break
            if not piece:
                break
            received += piece
        return bytes(received)

    def close(self) -> None:
        self._socket.close()
        self.process.connections.remove(self)
        if not self.process.connections:
            self.process.state = Process()


def _in_child(run: Callable[[], None]) -> NoReturn:
    try:
        run()
    finally:
        os._exit(0)


def _connect_for_ever(theirs: socket.socket, uid: int, path: Path) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    while theirs.recv(1):
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(str(path))
            socket.send_fds(theirs, [b"f"], [made.fileno()])
