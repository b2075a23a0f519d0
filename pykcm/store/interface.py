"""What every store offers: asynchronous, because one may be far away; the embedded ones never wait."""

import errno
from collections.abc import Iterable
from typing import Protocol

from pykcm.protocol.codes import KcmError
from pykcm.store.tree import Expired, Secret, SecretChange


class StoreError(KcmError):
    """A store could not read or write; `code` is a system errno."""

    def __init__(self, reason: str, code: int = errno.EIO) -> None:
        super().__init__(code, reason)


class StoreUnusableError(Exception):
    """A store cannot be opened; the message names the file, the cause and the way out."""


class Store(Protocol):
    """Secrets in containers. Only one process has a store open at a time.

    `persistent`: whether what was committed outlives the process.
    """

    persistent: bool

    async def load(self, uid: int) -> list[Secret]:
        """All secrets in the UID's container and below, in stored order; raises StoreError."""

    async def commit(self, changes: Iterable[SecretChange]) -> None:
        """Make all changes, in this order, or none of them; returns when they are durable.

        Raises StoreError; then the store is as it was before.
        """

    async def uids(self) -> list[int]:
        """The UIDs that have ccaches, ascending; raises StoreError."""

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        """Secrets that expired at `until`, in seconds since the epoch, or before; raises StoreError.

        In their order, at most `limit` of them, beginning behind `after`. The work does not grow with
        secrets that are not told of.
        """

    async def count_ccaches(self) -> int:
        """How many ccaches there are of all UIDs; raises StoreError."""

    def close(self) -> None:
        """Let go of everything; what was committed stays."""
