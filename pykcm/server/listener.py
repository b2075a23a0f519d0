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
            _check_free(path)
            # Ready under a name of its own, then moved: the path never leads to a socket that refuses.
            unready = path.with_name(f".{path.name[:60]}.{os.getpid()}")
            unready.unlink(missing_ok=True)
            self.socket.bind(str(unready))
            unready.chmod(_MODE)
            self.socket.listen(BACKLOG)
            self._inode = unready.stat().st_ino
            unready.rename(path)
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


def _check_free(path: Path) -> None:
    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path}: is there and is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except (BlockingIOError, TimeoutError):
            pass  # its backlog is full: somebody listens, if slowly
    raise ListenError(f"{path}: another server listens there; stop it first, or choose another socket_path")
