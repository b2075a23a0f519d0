"""The reading half of a collection: its ccaches by name and by UUID, and its defaults."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator

from pykcm.ccaches.ccache import UNKNOWN_LABEL, CCache
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults, MayUse, latest_tgt
from pykcm.protocol.codes import KcmError


class CCacheLookup:
    """The ccaches of one UID, in stored order.

    `unavailable` holds the names of ccaches whose secrets cannot be read, each with its UUID: they are
    not listed, answer EIO, keep their name, and can only be destroyed. `unavailable_labels` has the labels
    of those of them whose label is known.
    """

    def __init__(self, uid: int, clock: Callable[[], float], removal_clock: Callable[[], float]) -> None:
        self.uid = uid
        self._clock = clock
        self._removal_clock = removal_clock
        self.own_name = b"%d" % uid
        self.unavailable: dict[bytes, bytes] = {}
        self.unavailable_labels: dict[bytes, str | None] = {}
        self._ccaches: dict[bytes, CCache] = {}
        self._by_uuid: dict[bytes, CCache] = {}
        self._defaults = NOTHING_CHOSEN

    def __len__(self) -> int:
        return len(self._ccaches)

    def __iter__(self) -> Iterator[CCache]:
        return iter(self._ccaches.values())

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    @property
    def removal_time(self) -> float:
        """Seconds since the epoch: a ccache may be removed as expired if it has expired by then.

        It is earlier than `now` while the clock is in doubt.
        """
        return self._removal_clock()

    @property
    def is_empty(self) -> bool:
        """Whether there is no ccache, readable or not."""
        return not self._ccaches and not self.unavailable

    def get(self, name: bytes) -> CCache | None:
        """The ccache of this name; raises EIO where its secrets cannot be read."""
        ccache = self._ccaches.get(name)
        if ccache is None and name in self.unavailable:
            raise KcmError(errno.EIO, "the ccache's secrets cannot be read")
        return ccache

    def by_uuid(self, uuid: bytes) -> CCache | None:
        return self._by_uuid.get(uuid)

    def has(self, name: bytes) -> bool:
        """Whether the name is taken by a ccache, readable or not."""
        return name in self._ccaches or name in self.unavailable

    def label_of(self, name: bytes) -> str | None:
        """The label of the ccache that has this name; UNKNOWN_LABEL where that cannot be read."""
        ccache = self._ccaches.get(name)
        return self.unavailable_labels.get(name, UNKNOWN_LABEL) if ccache is None else ccache.label

    def unused_name(self) -> bytes:
        """A name under this UID that no ccache and no default has."""
        while True:
            name = b"%s:%s" % (self.own_name, _random_suffix())
            if not self.has(name) and not self.is_default(name):
                return name

    def _insert(self, ccache: CCache) -> None:
        """Add the ccache at the end, or in place of the one of its name."""
        self._ccaches[ccache.name] = ccache
        self._by_uuid[ccache.uuid] = ccache

    def _delete(self, ccache: CCache) -> None:
        del self._ccaches[ccache.name]
        del self._by_uuid[ccache.uuid]

    # Defaults

    @property
    def defaults(self) -> Defaults:
        """The chosen defaults."""
        return self._defaults

    @property
    def default_name(self) -> bytes:
        """The chosen name of the default that peers share, whether or not a ccache has it."""
        shared = self._defaults.shared
        return self.own_name if shared is None else shared

    def is_default(self, name: bytes) -> bool:
        """Whether it is chosen as the shared default or as that of an SELinux range."""
        return name == self.default_name or any(name == each for _, each in self._defaults.by_range)

    def is_destroyed(self, range_: str | None) -> bool:
        """Whether the user of this default destroyed it, so that no other ccache takes its place."""
        return range_ in self._defaults.destroyed

    def current_default(self, chosen: bytes, range_: str | None, may_use: MayUse) -> bytes:
        """The default's name; `chosen` is the chosen one of the range (None: the shared one).

        If no usable ccache has the chosen name, another ccache takes its place. The chosen name stays if its
        user has destroyed the ccache, or if there is no other one.
        """
        if self.has(chosen) and may_use(self.label_of(chosen)):
            return chosen
        other = None if self.is_destroyed(range_) else self.default_substitute(may_use)
        return chosen if other is None else other.name

    def shared_default(self, chosen: bytes | None = None) -> bytes:
        """The name of the shared default, for a peer from which no ccache is hidden.

        `chosen`: the name to use in place of the chosen one.
        """
        return self.current_default(self.default_name if chosen is None else chosen, None, lambda _: True)

    def default_substitute(self, may_use: MayUse) -> CCache | None:
        """The ccache that takes the place of a removed default: the one whose TGT ends last.

        None: there is no ccache that may be used.
        """
        usable: Iterable[CCache] = (ccache for ccache in self if may_use(ccache.label))
        return latest_tgt(usable, self.own_name)


def _random_suffix() -> bytes:
    return os.urandom(4).hex().encode()
