"""The service's side of systemd: listening sockets from LISTEN_FDS, and state sent to NOTIFY_SOCKET."""

import logging
import os
import re
import socket
import stat
from typing import NamedTuple

from pykcm.protocol.text import printable
from pykcm.sockets.bound_socket import ListenError

log = logging.getLogger(__name__)

# sd_listen_fds(3): descriptors are numbered from here.
_FIRST_FD = 3

_NUMBER = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_VARIABLES = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")

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


def passed_descriptors() -> list[tuple[int, str]]:
    """Return the descriptors that systemd passed to this process, each with its name ("" without names).

    Child processes get neither the descriptors nor the variables. Raises ListenError.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    _, _, number, names = [os.environ.pop(name, None) for name in _VARIABLES]
    if number is None or _NUMBER.fullmatch(number) is None:
        raise ListenError(f"LISTEN_FDS={printable(number or '')} is not a number of descriptors from 1")
    count = int(number)
    fds = range(_FIRST_FD, _FIRST_FD + count)
    try:
        for fd in fds:
            os.set_inheritable(fd, False)
    except OSError as error:
        raise ListenError(f"LISTEN_FDS={number} does not give sockets: {error.strerror}") from error
    named = [""] * count if names is None else names.split(":")
    if len(named) != count:
        raise ListenError(f"LISTEN_FDNAMES has {len(named)} names, but LISTEN_FDS={number}")
    return list(zip(fds, named, strict=True))


def listening_socket(fd: int) -> socket.socket | None:
    """Return the open descriptor as a listening stream socket, or None if it is not one."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    sock = socket.socket(fileno=fd)
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return sock
    sock.detach()
    return None


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
