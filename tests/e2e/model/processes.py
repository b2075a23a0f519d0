"""Processes of several UIDs that connect to a daemon and hand their connections to the test.

The kernel tells the daemon which process connected, and not which one uses the connection later.
"""

import itertools
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tests.e2e.daemon import LIMIT

from .collections_model import Asker


class ConnectingProcess:
    """A process of this UID, and its open connections. `number` is the model's, and not a PID."""

    def __init__(self, uid: int, number: int, path: Path, connection_numbers: "itertools.count[int]") -> None:
        self.connections: list[Connection] = []
        self._uid = uid
        self._number = number
        self._connection_numbers = connection_numbers
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(LIMIT)
        self._pid = os.fork()
        if not self._pid:
            _in_child(lambda: _connect_for_ever(theirs, uid, path))
        theirs.close()

    def connect(self) -> "Connection":
        self._ours.send(b"c")
        _, (fd,), _, _ = socket.recv_fds(self._ours, 1, 1)
        asker = Asker(self._uid, self._number, next(self._connection_numbers))
        connection = Connection(self, asker, socket.socket(fileno=fd))
        self.connections.append(connection)
        return connection

    def end(self) -> None:
        for connection in list(self.connections):
            connection.close()
        self._ours.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


class Connection:
    """One connection, used by the test."""

    def __init__(self, process: ConnectingProcess, asker: Asker, sock: socket.socket) -> None:
        self.asker = asker
        self._process = process
        self._socket = sock
        self._socket.settimeout(LIMIT)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, size: int) -> bytes:
        """The next `size` bytes; fewer if the daemon has ended."""
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

    def close(self) -> bool:
        """Close it; tells whether the process has no other one."""
        self._socket.close()
        self._process.connections.remove(self)
        return not self._process.connections


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
