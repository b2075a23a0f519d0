"""The interface of all stores. It is asynchronous: a store may be on another host, or wait for its disk."""

import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pykcm.protocol.codes import KcmError
from pykcm.store.tree import Expired, Secret, SecretChange

# Lets others have their turn.
Pause = Callable[[], Awaitable[None]]


class StoreError(KcmError):
    """A store could not read or write; `code` is a system errno."""

    def __init__(self, reason: str, code: int = errno.EIO) -> None:
        super().__init__(code, reason)


class StoreUnusableError(Exception):
    """A store cannot be opened; the message names the file, the cause and the way out."""


class Loaded(NamedTuple):
    """A UID's secrets in stored order, and the version that they make up."""

    version: int
    secrets: list[Secret]


class Entry(NamedTuple):
    """Changes that are all made, in this order, or none of them.

    `bases`: for each UID whose secrets they change, the version that they are based on. `size`: the bytes
    that they write and delete, about. `id`: unique among all entries of all processes that use the store.
    """

    changes: Sequence[SecretChange]
    bases: Mapping[int, int] = MappingProxyType({})
    size: int = 0
    id: bytes = b""


class Committed(NamedTuple):
    """The changes are durable; `versions` are the new ones of the UIDs in the entry's `bases`."""

    versions: Mapping[int, int] = MappingProxyType({})


class Conflict(NamedTuple):
    """Nothing was changed: these UIDs have other versions than the entry is based on."""

    uids: tuple[int, ...]


class Refused(NamedTuple):
    """Nothing was changed, and will not be: the store could not."""

    error: StoreError


class Unknown(NamedTuple):
    """The changes may have been made, or may not; Store.outcome tells."""

    error: StoreError


Outcome = Committed | Conflict | Refused | Unknown


class Store(Protocol):
    """Secrets in containers.

    Each UID's secrets have a version, which each commit that changes them increases. A store of one host is
    opened by one process at a time, and its commits never conflict.
    `persistent`: whether what was committed outlives the process. `needs_task`: whether `commit` has to be
    called in a task; without one it is faster.
    """

    persistent: bool
    needs_task: bool

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        """All secrets in the UID's container and below; raises StoreError.

        `pause` is awaited between slices of what takes longer than a few milliseconds: meanwhile others may
        commit, but nobody may change what is loaded.
        """

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> Awaitable[None] | None:
        """The wait before a commit of these changes, and nearly always None.

        `size`: bytes that they write and delete, about.
        While the store is copied, those who write most wait, so that the copy comes to its end.
        """

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Commit entries together; gives the outcome of each, which does not depend on that of the others.

        Returns when those that are Committed are durable. Called by one caller at a time.
        """

    async def outcome(self, entry: Entry) -> Committed | None:
        """The end of an entry whose outcome was Unknown: None if it was not made, and will not be.

        Raises StoreError while that cannot be found out.
        """

    async def uids(self) -> list[int]:
        """The UIDs that have ccaches, ascending; raises StoreError.

        Others have their turn meanwhile, and may commit.
        """

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        """Secrets that expired at `until`, in seconds since the epoch, or before; raises StoreError.

        In their order, at most `limit` of them, beginning behind `after`. The work does not grow with
        secrets that are not told of.
        """

    async def uids_without_expiry(self, after: int) -> tuple[list[int], int | None]:
        """UIDs that have a ccache which never expires, in one part of the store; raises StoreError.

        `after` is 0 for the first part, else the second value of the answer before; that is None where no
        part is left. The work for one part is bounded.
        """

    async def count_ccaches(self) -> int:
        """How many ccaches there are of all UIDs; raises StoreError, also where the store cannot be read.

        The number is kept. Only the first call may count, and then others have their turn meanwhile.
        """

    def close(self) -> None:
        """Let go of everything; what was committed stays."""
