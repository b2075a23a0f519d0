"""The service's side of systemd: listening sockets from LISTEN_FDS, and state sent to NOTIFY_SOCKET."""

import logging
import os
import socket
from typing import NamedTuple

from pykcm.protocol.text import printable
from pykcm.sockets.passed import ListenError, listening_socket, passed_descriptors

log = logging.getLogger(__name__)

# FileDescriptorName= in pykcm-control.socket.
_CONTROL = "control"

# Seconds to wait while systemd's queue of notifications is full.
_PATIENCE = 5.0


class Activated(NamedTuple):
    """The listening sockets that systemd passed to the daemon: for KCM clients, and for pykcmctl."""

    kcm: list[socket.socket]
    control: list[socket.socket]


def activated_sockets() -> Activated:
    """Return the sockets that systemd passed to the daemon, which may be none; raises ListenError."""
    sockets = Activated([], [])
    for fd, name in passed_descriptors():
        sock = listening_socket(fd)
        if sock is not None and sock.family == socket.AF_UNIX:
            (sockets.control if name == _CONTROL else sockets.kcm).append(sock)
            continue
        wrong = f"descriptor {fd} from LISTEN_FDS is not a listening Unix stream socket"
        if name != _CONTROL:
            raise ListenError(wrong)
        # The daemon serves tickets without it.
        log.error("pykcmctl cannot reach this daemon: %s; check pykcm-control.socket", wrong)
        if sock is None:
            os.close(fd)
        else:
            sock.close()
    return sockets


class Notifier:
    """Sends the service's state to systemd, as sd_notify(3) does. Without NOTIFY_SOCKET it does nothing."""

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={printable(status)}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=Completing requests in progress")

    def _send(self, message: str) -> None:
        if not self._path:
            return
        # A path of "@" is in the abstract namespace.
        address = f"\0{self._path[1:]}" if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.connect(os.fsencode(address))
                sock.send(message.encode())
        except OSError as error:
            log.warning(
                "%s cannot be sent to systemd (NOTIFY_SOCKET=%s): %s; systemd may wait for it, and then stop "
                "the service",
                *(message.partition("\n")[0], self._path, error.strerror or error),
            )
