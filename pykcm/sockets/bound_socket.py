"""A listening socket at a path: how it is bound, and who may put another one in its place."""

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import Struct

from pykcm.logs import User
from pykcm.processes import describe_process
from pykcm.sockets.passed import ListenError

# All UIDs wait in this queue of the kernel. A UID that connects without end keeps it full, and the others
# wait until all of it is accepted. With 4,096 places that takes half a second while 8 UIDs do so. With too
# few places, clients that do not wait in connect() are refused although the daemon is not late.
BACKLOG = 512

_UCRED = Struct("iII")

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

# In seconds.
_PATIENCE = 1.0


class BoundSocket:
    """A socket that the daemon binds itself at `path`; `close` removes it.

    A socket that a dead server left behind is replaced. Raises ListenError if a server listens there.
    """

    def __init__(self, path: Path, mode: int = 0o666) -> None:
        self._path = path
        self._mode = mode
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _alone_in(path.parent):
                self._bind()
        except OSError as error:
            self.socket.close()
            raise ListenError(f"{path}: {error.strerror or error}") from error
        except ListenError:
            self.socket.close()
            raise

    def _bind(self) -> None:
        if _is_stale(self._path):
            self._path.unlink()
        # The socket never has another mode, not even for a moment.
        umask = os.umask(0o777 & ~self._mode)
        try:
            self.socket.bind(str(self._path))
        finally:
            os.umask(umask)
        self._inode = self._path.stat().st_ino
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.stat(follow_symlinks=False).st_ino == self._inode:
                self._path.unlink()
        self.socket.close()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock the folder: otherwise, of two servers that start together, one takes the other's socket for stale.

    Anyone who may read the folder can hold this lock. After a while the server starts without it.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # a folder that cannot be read may still be writable
        return
    try:
        end = time.monotonic() + _PATIENCE
        while not _lock(fd) and time.monotonic() < end:
            # A lock with a deadline can only be tried again. The loop does not run yet: no client waits.
            time.sleep(_PATIENCE / 100)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _is_stale(path: Path) -> bool:
    """Whether a dead server's socket is at `path`; raises ListenError for anything else there."""
    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path}: exists and is not a socket; it is left as it is")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
            holder = _listening(probe)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            # The backlog is full: a server listens, but is slow.
            holder = "another server (too busy to tell which)"
    raise ListenError(f"{path}: {holder} listens there; stop it first, or choose another path")


def _listening(probe: socket.socket) -> str:
    """Describe the process that called listen(), as the kernel remembers it. It may be systemd."""
    pid, uid, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if pid:
        return f"{describe_process(pid)} of {User(uid)}"
    return f"another server of {User(uid)}, out of sight (in a container?),"


def folder_of_others(
    path: str, owners: Collection[int], *, trusts_sticky: bool = True, top: Path = Path("/")
) -> Path | None:
    """Return the first folder above the socket, up to `top`, in which other users can replace it.

    `owners`: UIDs that may replace it. A sticky folder protects a socket that exists, but lets anybody create
    one that does not. Raises OSError.
    """
    folder = Path(path).parent.resolve(strict=True)
    for each in (folder, *folder.parents):
        if not each.is_relative_to(top):
            break
        status = each.stat()
        is_open = status.st_mode & _OTHERS_WRITE and not (trusts_sticky and status.st_mode & stat.S_ISVTX)
        if is_open or status.st_uid not in owners:
            return each
    return None
