"""The interface of all stores. It is asynchronous, because a store may wait for its disk or another host."""

import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from pykcm.protocol.codes import KcmError
from pykcm.store.tree import Expired, Secret, SecretChange

# Lets other tasks run.
Pause = Callable[[], Awaitable[None]]


class StoreError(KcmError):
    """The store could not read or write; `code` is a system errno."""

    def __init__(self, reason: str, code: int = errno.EIO) -> None:
        super().__init__(code, reason)


class StoreUnusableError(Exception):
    """The store cannot be opened; the message names the file and the cause, and says what to do."""


class Loaded(NamedTuple):
    """A UID's secrets in stored order, and their version."""

    version: int
    secrets: list[Secret]


class Entry(NamedTuple):
    """Changes of which all are made, in this order, or none.

    `bases`: for each UID whose secrets they change, the version that they are based on. `size`: about how
    many bytes they write and delete. `id`: unique among all entries of all processes that use the store.
    `added`: how many ccaches they add, if `most_ccaches` limits those of all UIDs; a store that other hosts
    change answers Conflict if there would be more. 0: no limit. `changes_tgts`: whether other hosts have to
    know, because a TGT to be renewed was added or removed.
    """

    changes: Sequence[SecretChange]
    bases: Mapping[int, int] = MappingProxyType({})
    size: int = 0
    id: bytes = b""
    added: int = 0
    most_ccaches: int = 0
    changes_tgts: bool = False


class Committed(msgspec.Struct, frozen=True):
    """The changes are durable; `versions` has the new version of each UID in the entry's `bases`."""

    versions: Mapping[int, int] = MappingProxyType({})


class Conflict(msgspec.Struct, frozen=True):
    """The store made no change: these UIDs have other versions than those in the entry's `bases`."""

    uids: tuple[int, ...]


class Refused(msgspec.Struct, frozen=True):
    """The store made no change and will make none, because of this error."""

    error: StoreError


class Unknown(msgspec.Struct, frozen=True):
    """It is unknown whether the store made the changes; Store.outcome finds out."""

    error: StoreError


class Blocked(msgspec.Struct, frozen=True):
    """The store made no change, because another host's transaction is in the way: try it again.

    `pause`: seconds until then. After enough attempts the store refuses the entry.
    """

    pause: float


Outcome = Committed | Conflict | Refused | Unknown


class Freshness(Protocol):
    """Tells whether secrets in memory are still those of a store that other hosts change."""

    def is_known_newest(self, uid: int, version: int) -> bool:
        """Whether the UID's newest version is known to be this one, without asking the store."""

    async def newest_version(self, uid: int) -> int:
        """Return a version that is at least as new as the UID's was when this was called.

        Returns 0 while the store cannot be reached and memory counts all the same; raises StoreError when it
        does not count any more. Callers need no task.
        """


class Sharing(Protocol):
    """The part of a store that is for all hosts together."""

    async def may_reap(self, seconds: float) -> bool:
        """Whether this host searches for expired ccaches now, and no other for so many seconds.

        Raises StoreError.
        """

    async def may_renew(self, holder: bytes, seconds: float) -> bool:
        """Whether this host renews TGTs for all, and no other for so many seconds.

        `holder` stands for this host, which may ask again before the time is over. Raises StoreError.
        """

    async def end_renewals(self, holder: bytes) -> None:
        """Let another host renew TGTs at once; raises StoreError."""

    async def commits_of_tgts(self, seconds: float) -> dict[bytes, list[int]]:
        """Return the commits of the last seconds that added or removed a TGT: their UIDs by their ids.

        The work does not grow with the number of collections. Raises StoreError.
        """

    async def versions_after(self, uid: int, limit: int) -> list[tuple[int, int]]:
        """Return UIDs with their newest versions, ascending from the first one after `uid`.

        A UID stays among them when its last ccache is removed. Raises StoreError.
        """

    async def count_recently(self) -> int:
        """Return the number of ccaches of all UIDs, now or a minute ago; raises StoreError."""

    def statistics(self) -> dict[str, Any]:
        """The state of the store and counts since the start, as the request `stats` gives them."""


class Store(Protocol):
    """Secrets in containers.

    Each UID's secrets have a version, which each commit that changes them increases. One process at a time
    opens a store of one host, and its commits never conflict.
    `persistent`: whether committed secrets outlive the process. `commits_at_once`: the most calls of `commit`
    at a time. Callers of `commit` need no task (see engine.stepping).
    """

    persistent: bool
    commits_at_once: int

    @property
    def freshness(self) -> Freshness | None:
        """None if no other host changes the store."""

    @property
    def sharing(self) -> Sharing | None:
        """None if no other host uses the store."""

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        """Return all secrets in the UID's container and below; raises StoreError.

        A load of more than a few milliseconds awaits `pause` between its slices. Meanwhile others may commit,
        but nobody may change the secrets being loaded.
        """

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> Awaitable[None] | None:
        """Return the wait before a commit of these changes; nearly always None: there is no wait.

        `size`: about how many bytes they write and delete. During a copy of the store, the UIDs that write
        most wait, so that the copy comes to its end.
        """

    async def commit(self, entries: Sequence[Entry]) -> Sequence[Outcome | Blocked]:
        """Commit entries together; returns each outcome, which does not depend on the other entries.

        No UID is in the bases of two entries, and the outcome of each UID's last entry is known.
        It returns when the committed entries are durable. Calls at a time have no UID in common.
        """

    async def outcome(self, entry: Entry) -> Committed | None:
        """Find out about an entry whose outcome is Unknown; None: it was not committed, and will not be.

        Raises StoreError while the answer is unknown.
        """

    async def uids(self) -> list[int]:
        """Return the UIDs that have ccaches, ascending; raises StoreError.

        Meanwhile other tasks run, and may commit.
        """

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        """Return secrets that have expired by `until`, in seconds since the epoch; raises StoreError.

        Returns at most `limit` secrets in their order, beginning after `after`. The work does not grow with
        the number of other secrets.
        """

    async def uids_without_expiry(self, after: int) -> tuple[list[int], int | None]:
        """Return UIDs that have a ccache which never expires, in one part of the store; raises StoreError.

        `after` is 0 for the first part, else the second value of the previous answer, which is None after the
        last part. The work for one part is bounded.
        """

    async def count_ccaches(self) -> int:
        """Return the number of ccaches of all UIDs; raises StoreError, also if the store cannot be read.

        The store keeps the number. Only the first call counts, and then other tasks run meanwhile.
        """

    def close(self) -> None:
        """Close all files; committed secrets stay."""
