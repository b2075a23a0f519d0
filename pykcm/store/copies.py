"""Copies of a store in use: backups, and the change of keys.

Not every store can be copied: one in memory has neither a key nor a backup, and a shared one has the
database's own backups.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec


class StoreBusyError(Exception):
    """Another backup or change of keys is under way; the message says what to do."""


class UnsupportedError(Exception):
    """The store cannot do this, or not in this way; the message says what to do instead."""


class Copied(msgspec.Struct, frozen=True):
    """The progress of a copy, in bytes, or in UIDs of a shared store.

    `slowed`: the UIDs whose commits have waited for it.
    """

    done: int
    size: int
    slowed: tuple[int, ...] = ()


class Rekeyed(msgspec.Struct, frozen=True):
    """The end of a change of keys.

    `key`: the file that holds the new key. If `is_pending`, the administrator has to put the new key into
    `place`, where the old one came from. Until a start with the new key both work. `is_credential`: whether
    `place` is a systemd credential. `pause`: seconds in which nothing else was served. `is_shared`: other
    hosts have the store, too, and each has its own place of the key.
    """

    key: Path
    place: Path
    is_credential: bool
    is_pending: bool
    pause: float
    is_shared: bool = False


class Backup(Protocol):
    """A copy of all committed secrets, encrypted with the store's key. The copy does not hold the key.

    `size`: in bytes. `key`: the file that holds the key. If `is_pending`, it is the key of the last rekey,
    which is not in its place yet. `sha256`: the digest of all pieces, after the last one. `slowed`: the UIDs
    whose commits have waited for the copy.
    """

    size: int
    key: Path
    is_pending: bool

    @property
    def slowed(self) -> tuple[int, ...]: ...

    @property
    def sha256(self) -> bytes: ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the copy in pieces, and check it before the end; raises StoreError."""


class Copies(msgspec.Struct, frozen=True):
    """Makes copies of a store while it is in use, one at a time.

    `backup` raises StoreError, StoreBusyError.

    `rekey` encrypts everything with the given key or a new one, and yields its progress and the end. At each
    moment the old key or the new one opens the store at the next start. If it is closed early, it changes
    nothing, or goes on when it is called again (a shared store). It raises StoreError, StoreBusyError,
    UnsupportedError.
    """

    backup: Callable[[], AbstractAsyncContextManager[Backup]]
    rekey: Callable[[bytes | None], AsyncGenerator[Copied | Rekeyed, None]]
