"""What systemd gives the service and wants to hear from it: sockets and readiness.

All through systemd-python, which is optional: without it, a service that systemd started in a way that
needs it is an error and not silence.
"""

import logging
import os
import socket
from types import ModuleType
from typing import NamedTuple

from pykcm.server.listener import ListenError

log = logging.getLogger(__name__)

_HINT = "install systemd-python (pykcm's extra `system`)"


# What FileDescriptorName= of pykcm-control.socket says.
_CONTROL = "control"


class Activated(NamedTuple):
    """The listening sockets that systemd has handed over: those for KCM's clients, and for administration."""

    kcm: list[socket.socket]
    control: list[socket.socket]


def activated_sockets() -> Activated:
    """No sockets where systemd has handed over none; raises ListenError."""
    sockets = Activated([], [])
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return sockets
    daemon = _daemon("LISTEN_FDS")
    number = os.environ.get("LISTEN_FDS")
    try:
        for fd, name in daemon.listen_fds_with_names(unset_environment=True).items():
            is_control = name == _CONTROL
            if not daemon.is_socket_unix(fd, socket.SOCK_STREAM, 1):
                wrong = f"descriptor {fd} from LISTEN_FDS is not a listening Unix stream socket"
                if not is_control:
                    raise ListenError(wrong)
                # Tickets are served without it.
                log.error("pykcmctl cannot reach this daemon: %s; see to pykcm-control.socket", wrong)
                os.close(fd)
                continue
            (sockets.control if is_control else sockets.kcm).append(socket.socket(fileno=fd))
    except OSError as error:
        raise ListenError(f"LISTEN_FDS={number} does not give sockets: {error.strerror}") from error
    return sockets


class Notifier:
    """Tells systemd (or whoever set NOTIFY_SOCKET) how the service is; nobody, when nobody listens."""

    def __init__(self) -> None:
        self._daemon = _daemon("NOTIFY_SOCKET") if os.environ.get("NOTIFY_SOCKET") else None

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=Answering what has begun")

    def _tell(self, message: str) -> None:
        if self._daemon is None:
            return
        try:
            self._daemon.notify(message)
        except OSError as error:
            state = message.partition("\n")[0]
            log.warning(
                "systemd (NOTIFY_SOCKET=%s) cannot be told %s: %s; it may wait for that, and end the service",
                *(os.environ.get("NOTIFY_SOCKET"), state, error),
            )


def _daemon(variable: str) -> ModuleType:
    try:
        from systemd import daemon  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ListenError(f"{variable} is set, but there is no systemd-python: {_HINT}") from error
    module: ModuleType = daemon
    return module
