"""The chosen defaults of a collection, and the ccache that takes the place of a removed one.

All peers of a UID share one default. Peers at higher SELinux levels may have one by their range.
"""

from collections.abc import Callable, Iterable
from typing import Self

import msgspec

from pykcm.ccaches.ccache import CCache

# At most so many ranges have a default: more containers come and go than can be kept.
MAX_RANGES = 64

# Whether the default of a range, or the shared one (None), follows a ccache that is moved.
Follows = Callable[[str | None], bool]

# Whether the peer may use a ccache of this label.
MayUse = Callable[[str | None], bool]


class Defaults(msgspec.Struct, frozen=True):
    """Names, whether or not ccaches have them.

    `shared`: None for the collection's own name. `by_range`: pairs of a peer's SELinux range and the name,
    the earliest range first. `destroyed`: the ranges (None: the shared default) whose default its user has
    destroyed as the default, by a plain kdestroy: no other ccache takes its place.
    """

    shared: bytes | None = None
    by_range: tuple[tuple[str, bytes], ...] = ()
    destroyed: frozenset[str | None] = frozenset()

    def of_range(self, range_: str) -> bytes | None:
        """The default of this range, if it has one."""
        return next((name for each, name in self.by_range if each == range_), None)

    def with_shared(self, name: bytes | None) -> Self:
        """Return these with the shared default set."""
        return msgspec.structs.replace(self, shared=name, destroyed=self.destroyed - {None})

    def with_range(self, range_: str, name: bytes, exists: Callable[[bytes], bool]) -> Self:
        """Return these with the default of one range set; `exists` tells which ccaches there are.

        When there are too many, the oldest one that names no ccache is forgotten, else the oldest.
        """
        destroyed = self.destroyed - {range_}
        if self.of_range(range_) is not None:
            by_range = tuple((each, name if each == range_ else old) for each, old in self.by_range)
            return msgspec.structs.replace(self, by_range=by_range, destroyed=destroyed)
        kept = list(self.by_range)
        if len(kept) >= MAX_RANGES:
            forgotten = next((entry for entry in kept if not exists(entry[1])), kept[0])
            kept.remove(forgotten)
            destroyed -= {forgotten[0]}
        return msgspec.structs.replace(self, by_range=(*kept, (range_, name)), destroyed=destroyed)

    def with_destroyed(self, range_: str | None) -> Self:
        """Return these with one marked as destroyed by its user."""
        return msgspec.structs.replace(self, destroyed=self.destroyed | {range_})

    def without_destroyed(self, ranges: Iterable[str | None]) -> Self:
        """Return these without the marks of these ranges."""
        return msgspec.structs.replace(self, destroyed=self.destroyed.difference(ranges))

    def after_creation(self, name: bytes, own_name: bytes) -> Self:
        """Return these after a ccache of this name was created; `own_name` is the collection's."""
        if not self.destroyed:
            return self
        naming: set[str | None] = {range_ for range_, each in self.by_range if each == name}
        if name == (own_name if self.shared is None else self.shared):
            naming.add(None)
        return self.without_destroyed(naming)

    def after_rename(self, old: bytes, new: bytes, own_name: bytes, follows: Follows) -> Self:
        """Return these, with those that named the ccache `old` and follow it naming `new`.

        `own_name` is the collection's.
        """
        shared = own_name if self.shared is None else self.shared
        if shared == old and follows(None):
            shared = new
        return msgspec.structs.replace(
            self,
            shared=None if shared == own_name else shared,
            by_range=tuple(
                (range_, new if name == old and follows(range_) else name) for range_, name in self.by_range
            ),
        )


NOTHING_CHOSEN = Defaults()


def latest_tgt(ccaches: Iterable[CCache], own_name: bytes) -> CCache | None:
    """The ccache whose TGT ends last; None: there is no ccache.

    Without any TGT it is the ccache whose last ticket ends last. Of equal ones it is the one with the
    collection's own name, then the first.
    """

    def rank(ccache: CCache) -> tuple[bool, int, bool]:
        # By the KDCs' clocks, which agree: a KDC offset is about this machine's.
        tgt_end = ccache.credentials.tgt_end
        end = ccache.credentials.latest_end if tgt_end is None else tgt_end
        return tgt_end is not None, end or 0, ccache.name == own_name

    return max(ccaches, key=rank, default=None)
