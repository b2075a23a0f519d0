"""Copies of a store in use, for stores that have them: backups, and the change of keys.

They are a capability of their own: a store that is elsewhere, or in memory, has neither key file nor backup.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class StoreBusyError(Exception):
    """A backup or a change of keys is under way already; the message says what to do."""


class UnsupportedError(Exception):
    """The store cannot do this, or not so; the message says what to do instead."""


class Copied(NamedTuple):
    """The progress of a copy, in bytes; `slowed`: the UIDs whose commits have had to wait for it."""

    done: int
    size: int
    slowed: tuple[int, ...] = ()


class Rekeyed(NamedTuple):
    """The end of a change of keys.

    `key`: the file that holds the new key. If `is_pending`, the new key still has to be put into `place`,
    where the old one came from; until the start with it either key works. `is_credential`: whether `place` is
    a systemd credential. `pause`: seconds in which nothing else was served.
    """

    key: Path
    place: Path
    is_credential: bool
    is_pending: bool
    pause: float


class Backup(Protocol):
    """A copy of all that is committed, encrypted with the store's key, which is not in it.

    `size`: in bytes. `key`: the file that holds the key. If `is_pending`, it is the one that rekey was given
    last, and is not in its place yet. `sha256`: of all pieces, after the last one. `slowed`: the UIDs whose
    commits have had to wait for it.
    """

    size: int
    key: Path
    is_pending: bool

    @property
    def slowed(self) -> tuple[int, ...]: ...

    @property
    def sha256(self) -> bytes: ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The copy, checked when the last piece has been given; raises StoreError."""


class Copies(NamedTuple):
    """Makes copies of a store while it is in use, one at a time.

    `backup` raises StoreError, StoreBusyError.

    `rekey` encrypts everything with another key, the given one or a new one; it gives the progress and the
    end. At each moment the old key or the new one opens the store at the next start. Closed before its end it
    changes nothing. It raises StoreError, StoreBusyError, UnsupportedError.
    """

    backup: Callable[[], AbstractAsyncContextManager[Backup]]
    rekey: Callable[[bytes | None], AsyncGenerator[Copied | Rekeyed, None]]
