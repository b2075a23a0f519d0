"""Start the daemon with sockets and notifications, as systemd does it."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .daemon import LIMIT, Pykcmd

FIRST_FD = 3

# Runs in the daemon's process before the daemon: it moves the sockets to descriptors 3 and up, through high
# descriptors, so that none is overwritten before it is moved.
_HAND_OVER = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for target, fd in enumerate(high, 3):
    os.dup2(fd, target)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high))}
os.execv(sys.argv[2], sys.argv[2:])
"""


class HasDescriptor(Protocol):
    """A socket or a file."""

    def fileno(self) -> int:
        """The number of the descriptor."""


def launch_with(
    daemon: Pykcmd,
    sockets: Sequence[HasDescriptor],
    notify: "Notifications | None" = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the daemon with these sockets, without waiting for it."""
    fds = [sock.fileno() for sock in sockets]
    return daemon.launch(
        wrapper=(sys.executable, "-c", _HAND_OVER, ",".join(map(str, fds))),
        environment={**(environment or {}), **({"NOTIFY_SOCKET": str(notify.path)} if notify else {})},
        pass_fds=fds,
    )


class Notifications:
    """The socket on which systemd receives notifications of services."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(LIMIT)
        self._socket.bind(str(path))

    def close(self) -> None:
        self._socket.close()

    def next(self) -> dict[str, str]:
        """Wait for the next message, and return its fields."""
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A listening socket at `path`, from which nobody accepts yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(64)
        yield sock
