"""The chosen defaults of a collection: the one that peers share, and those of peers that need their own."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

# So many peers may have one of their own: more come and go than are remembered.
MAX_OWN = 64

# Whether the default that a range has of its own, or the shared one (None), follows a ccache that is moved.
Follows = Callable[[str | None], bool]


class Defaults(NamedTuple):
    """Names, whether or not ccaches have them.

    `shared`: None for the collection's own name. `own`: by the SELinux range of the peers, the one that was
    first set longest ago ahead. `destroyed`: the ranges (None: the shared one) whose default its user has
    destroyed as the default, by a plain kdestroy: no other ccache takes its place.
    """

    shared: bytes | None = None
    own: tuple[tuple[str, bytes], ...] = ()
    destroyed: frozenset[str | None] = frozenset()

    def of(self, whose: str) -> bytes | None:
        """The default of its own that this range has."""
        return next((name for range_, name in self.own if range_ == whose), None)

    def with_shared(self, name: bytes | None) -> Self:
        """These with the shared default set."""
        return self._replace(shared=name, destroyed=self.destroyed - {None})

    def with_own(self, whose: str, name: bytes, exists: Callable[[bytes], bool]) -> Self:
        """These with the default of one range set; `exists` tells which ccaches there are.

        When there are too many, the oldest goes that names no ccache, or the oldest.
        """
        destroyed = self.destroyed - {whose}
        if self.of(whose) is not None:
            own = tuple((each, name if each == whose else old) for each, old in self.own)
            return self._replace(own=own, destroyed=destroyed)
        kept = list(self.own)
        if len(kept) >= MAX_OWN:
            going = next((entry for entry in kept if not exists(entry[1])), kept[0])
            kept.remove(going)
            destroyed -= {going[0]}
        return self._replace(own=(*kept, (whose, name)), destroyed=destroyed)

    def with_destroyed(self, whose: str | None) -> Self:
        """These with one marked as destroyed by its user."""
        return self._replace(destroyed=self.destroyed | {whose})

    def without_destroyed(self, ranges: Iterable[str | None]) -> Self:
        """These with the marks of these ranges taken away."""
        return self._replace(destroyed=self.destroyed.difference(ranges))

    def filled(self, name: bytes, own_name: bytes) -> Self:
        """These after a ccache of this name was made; `own_name` is the collection's."""
        if not self.destroyed:
            return self
        named = {range_ for range_, each in self.own if each == name}
        is_shared = name == (own_name if self.shared is None else self.shared)
        return self.without_destroyed({*named, None} if is_shared else named)

    def moved(self, old: bytes, new: bytes, own_name: bytes, follows: Follows) -> Self:
        """These, with those that named the ccache `old` and follow it naming `new`.

        `own_name` is the collection's.
        """
        shared = own_name if self.shared is None else self.shared
        if shared == old and follows(None):
            shared = new
        return self._replace(
            shared=None if shared == own_name else shared,
            own=tuple(
                (range_, new if name == old and follows(range_) else name) for range_, name in self.own
            ),
        )


NOTHING_CHOSEN = Defaults()
