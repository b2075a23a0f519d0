"""Connecting to a Unix socket within a time limit."""

import errno
import os
import socket
import time
from struct import Struct

# struct timeval: seconds and microseconds.
_TIMEVAL = Struct("@ll")
_MICROSECONDS = 1_000_000


def connect(path: str | os.PathLike[str], timeout: float | None) -> socket.socket:
    """Return a stream socket that is connected to the Unix socket at `path`, with this timeout.

    While the server's queue of connections is full, it waits for a place in it, for at most `timeout` seconds
    (None: without a limit). Raises OSError; TimeoutError if there was no place in time.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(sock, os.fspath(path), timeout)
        sock.settimeout(timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, path: str, timeout: float | None) -> None:
    # The kernel waits. With a timeout of Python's the socket would be nonblocking, and its connect() would
    # fail immediately if the queue is full.
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        if end is not None:
            microseconds = max(1, int((end - time.monotonic()) * _MICROSECONDS))
            limit = _TIMEVAL.pack(*divmod(microseconds, _MICROSECONDS))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            sock.connect(path)
            # A signal that interrupts connect() makes Python return although there is no connection.
            sock.getpeername()
        except BlockingIOError:
            message = f"the server accepted no connection within {timeout:g} s"
            raise TimeoutError(errno.ETIMEDOUT, message) from None
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                continue
            raise
        return
