"""The state folder: private, and used by one daemon at a time."""

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from pykcm.logs import User
from pykcm.processes import describe_process
from pykcm.store.disk import sync_folder
from pykcm.store.interface import StoreUnusableError


class StateFolder:
    """Locks the folder for this process until `close`; raises StoreUnusableError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            _make(path)
            status = path.stat()
            if status.st_uid != os.geteuid():
                raise StoreUnusableError(
                    f"{path}: the state folder belongs to {User(status.st_uid)}, not to the daemon's "
                    f"{User(os.geteuid())}; chown it, or choose another state_dir"
                )
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077:
                raise StoreUnusableError(
                    f"{path}: others than its owner have access to the state folder (mode {mode:04o}); "
                    "chmod 0700"
                )
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnusableError(f"{error.filename or path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(self._lock)
            os.close(self._lock)
            raise StoreUnusableError(
                f"{path}: {holder} has this state folder; stop it first, or choose another state_dir"
            ) from None
        # The lock works without this. On a full disk other daemons do not learn who holds it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        os.close(self._lock)


def _make(path: Path) -> None:
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # If a loss of power removed a new folder, everything in it would be lost.
    for folder in missing:
        sync_folder(folder.parent)


def _holder(lock: int) -> str:
    """Describe the process that holds the lock, as the kernel knows it, else as the lock's file names it."""
    pid = _pid_of_holder(os.fstat(lock))
    if pid is not None:
        return describe_process(pid)
    written = os.pread(lock, 32, 0).strip()
    if written.isdigit():
        # In this PID namespace the number is another process's, or nobody's.
        return f"a pykcmd that is out of sight (in a container?), process {written.decode()} there,"
    return "another pykcmd (unknown which)"


def _pid_of_holder(status: os.stat_result) -> int | None:
    """Return the holder's PID; None if the kernel does not show it, or it is in another PID namespace."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in locks.splitlines():
        # Like `7: FLOCK  ADVISORY  WRITE 4711 fd:01:131090 0 EOF`. Lines of waiting processes have an arrow.
        fields = line.split()
        if fields[1:2] == ["FLOCK"] and fields[5:6] == [device] and int(fields[4]) > 0:
            return int(fields[4])
    return None
