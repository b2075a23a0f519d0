"""The check that the open database's files still have their names: without them, changes would be lost."""

import errno
import logging
import os
import time
from pathlib import Path

from pykcm.store.interface import StoreError
from pykcm.store.sqlcipher.database import wal_of

log = logging.getLogger(__name__)

# Seconds between two looks at the files.
_LOOKED_AT_EVERY = 1.0

# Device and inode.
_Identity = tuple[int, int]


class Placement:
    """The names of the open database at `path` and of its write-ahead log; raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # The first read or write creates the write-ahead log.
        self._identities: dict[Path, _Identity | None] = {path: _identity(path), wal_of(path): None}
        self._next_look = 0.0
        # The fault that the last look found; "": none.
        self._fault = ""

    def check(self, *, at_once: bool = False) -> None:
        """Raise StoreError unless both files are in their places; looks at them at most once a second."""
        now = time.monotonic()
        if at_once or now >= self._next_look:
            self._next_look = now + _LOOKED_AT_EVERY
            self._look()
        if self._fault:
            raise StoreError(f"{self._fault}: changes are refused, because nothing would be left of them")

    def _look(self) -> None:
        fault = next(filter(None, map(self._fault_of, self._identities)), "")
        if fault and not self._fault:
            log.critical(
                "%s: changes are refused from now on, because nothing would be left of them at the next "
                "start; reads go on. Put the file back where it was, or save the tickets with pykcmctl "
                "export and restart the daemon",
                fault,
            )
        elif self._fault and not fault:
            log.warning("%s: is in its place again: changes are accepted", self._path)
        self._fault = fault

    def _fault_of(self, file: Path) -> str:
        try:
            found = _identity(file)
        except FileNotFoundError:
            wanted = self._identities[file]
            return "" if wanted is None else f"{file}: was removed or moved away while the daemon has it open"
        except OSError as error:
            return f"{file}: cannot be looked at: {error.strerror or errno.errorcode.get(error.errno or 0)}"
        if self._identities[file] is None:
            self._identities[file] = found
        if found != self._identities[file]:
            return f"{file}: is another file than the one that the daemon has open"
        return ""


def _identity(path: Path) -> _Identity:
    # This follows symbolic links, because the folder that they lead to may be replaced.
    status = os.stat(path)  # noqa: PTH116 - the fastest way
    return status.st_dev, status.st_ino
