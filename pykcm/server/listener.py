"""The socket that clients connect to: bound here, or handed over by systemd."""

import contextlib
import os
import socket
import stat
from pathlib import Path

BACKLOG = 1024
_MODE = 0o666


class ListenError(Exception):
    """There is no socket to listen on; the message says why."""


class BoundSocket:
    """A socket of the daemon's own at `path`, mode 0666; `close` removes it.

    One that a dead server left behind is replaced, one that a server listens on is not.
    Raises ListenError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if _is_stale(path):
                path.unlink()
            # The mode is there from the first moment, and no other one before it.
            umask = os.umask(0o777 & ~_MODE)
            try:
                self.socket.bind(str(path))
            finally:
                os.umask(umask)
            self._inode = path.stat().st_ino
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.socket.close()
            raise ListenError(f"{path}: {error.strerror or error}") from error
        except ListenError:
            self.socket.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.stat(follow_symlinks=False).st_ino == self._inode:
                self._path.unlink()
        self.socket.close()


def _is_stale(path: Path) -> bool:
    """Whether a dead server's socket is at `path`; raises ListenError for anything else that is there."""
    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path}: is there and is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass  # its backlog is full: somebody listens, if slowly
    raise ListenError(f"{path}: another server listens there; stop it first, or choose another socket_path")
