"""Descriptors that systemd passes to a program, from LISTEN_FDS."""

import os
import re
import socket
import stat

from pykcm.protocol.text import printable

# sd_listen_fds(3): descriptors are numbered from here.
_FIRST_FD = 3

_NUMBER = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_VARIABLES = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")


class ListenError(Exception):
    """There is no socket to listen on; the message says why."""


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
