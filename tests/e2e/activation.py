"""What systemd does for a service with sockets of its own, done by hand."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .daemon import LIMIT, Pykcmd

FIRST_FD = 3

# Run before the daemon and as its process: the sockets go to descriptors 3 and up, by way of high ones so
# that none is overwritten before it has moved.
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
        """The descriptor's number here."""


def launch_with(
    daemon: Pykcmd,
    sockets: Sequence[HasDescriptor],
    notify: "Notifications | None" = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the daemon with these sockets handed over; wait for nothing."""
    fds = [sock.fileno() for sock in sockets]
    return daemon.launch(
        wrapper=(sys.executable, "-c", _HAND_OVER, ",".join(map(str, fds))),
        environment={**(environment or {}), **({"NOTIFY_SOCKET": str(notify.path)} if notify else {})},
        pass_fds=fds,
    )


class Notifications:
    """The socket that systemd hears from its services on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(LIMIT)
        self._socket.bind(str(path))

    def close(self) -> None:
        self._socket.close()

    def next(self) -> dict[str, str]:
        """What the next message says; waits for it."""
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at `path` that listens and that nobody accepts from yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(64)
        yield sock
