"""The default ccache of a peer: the one that all peers of its UID share, or that of its SELinux range.

Peers above the system's lowest level (containers) get a default of their range when they set one, or when
they fill the default that they were given. Other peers do not move it, and these peers do not move the
shared default. Until then they are given the shared default, if it names no ccache or one that they may use.
Otherwise they are given another ccache that they may use, or an unused name, which is stored.

A default may be chosen before a ccache has its name. Then another ccache takes its place (see
Collection.current_default), except for a process that is about to fill it, and after a kdestroy.
"""

from collections.abc import Mapping

import msgspec

from pykcm.ccaches.collection import Collection
from pykcm.engine.engine import CollectionNeededError
from pykcm.peer.access import Access
from pykcm.peer.identity import ROOT, Peer
from pykcm.server.sessions import Session


class ChangeNeededError(Exception):
    """The operation is called again as one that changes the collection."""


class _Chosen(msgspec.Struct, frozen=True):
    """A chosen default, of a range or (None) the shared one."""

    name: bytes
    range: str | None


class PeerDefault:
    """The default of one peer in its UID's collection, during one operation.

    `others`: further collections by UID, because root's default may be a ccache of another UID. If not
    `may_change`, `give` raises ChangeNeededError before it keeps a new name.
    """

    __slots__ = (
        "_access",
        "_collection",
        "_may_change",
        "_new_name",
        "_others",
        "_peer",
        "_range",
        "_session",
    )

    def __init__(
        self,
        access: Access,
        peer: Peer,
        session: Session,
        collection: Collection,
        others: Mapping[int, Collection],
        *,
        may_change: bool,
    ) -> None:
        self._access = access
        self._peer = peer
        self._session = session
        self._collection = collection
        self._others = others
        self._may_change = may_change
        self._range = access.range_of(peer)
        # An unused name, which `give` makes the default.
        self._new_name: bytes | None = None

    def name(self) -> bytes:
        """Return the default's name. A new unused name is forgotten, unless `give` is called.

        Raises CollectionNeededError.
        """
        return self._name_of(self._chosen())

    def _name_of(self, chosen: _Chosen | None) -> bytes:
        if chosen is None:
            other = self._collection.default_substitute(self._may_use)
            return self._draw() if other is None else other.name
        if self._exists(chosen.name) or self._session.awaits(chosen.name):
            return chosen.name
        return self._collection.current_default(chosen.name, chosen.range, self._may_use)

    def give(self) -> bytes:
        """GET_DEFAULT_CACHE: return the default's name, and note that the peer knows it.

        Raises ChangeNeededError, and CollectionNeededError.
        """
        chosen = self._chosen()
        name = self._name_of(chosen)
        if self._new_name is not None:
            if not self._may_change:
                raise ChangeNeededError
            self._collection.set_default(self._new_name, self._range)
            chosen = self._chosen()
        self._session.given_default = name
        if chosen is not None and chosen.name == name:
            self._session.chose(name, exists=self._exists(name))
        return name

    def set(self, name: bytes) -> None:
        """SET_DEFAULT_CACHE."""
        self._session.chose(name, exists=self._exists(name))
        if self._range is None:
            self._collection.set_default(name)
            return
        shares = self._access.shares_default(self._peer)
        has_range_default = self._collection.defaults.of_range(self._range) is not None
        if shares and not has_range_default and self._may_share(self._collection.default_name):
            self._collection.set_default(name)
        else:
            self._collection.set_default(name, self._range)

    def filled(self, name: bytes) -> None:
        """Note that the peer has filled the ccache `name`: if it was the default, it becomes its range's."""
        if self._range is None:
            return
        chosen = self._chosen()
        if chosen is not None and self._collection.is_destroyed(chosen.range) and self._has_one_usable():
            # For this peer the collection was empty, and this is its first ccache.
            self._collection.forget_destroyed(chosen.range)
        if name != (self._new_name if chosen is None else chosen.name):
            return
        if self._new_name is not None or not self._access.shares_default(self._peer):
            self._collection.set_default(name, self._range)

    def is_given(self, name: bytes) -> bool:
        """Whether this is the default, and the client learned so on this connection."""
        return self._session.given_default == name and self.name() == name

    def destroyed(self, name: bytes) -> None:
        """Note that the peer has destroyed the ccache `name` as its default: no other takes its place."""
        if self._collection.default_substitute(self._may_use) is None:
            return
        chosen = self._chosen()
        if self._range is not None and (
            chosen is None or not self._access.may_move_default(self._peer, chosen.range)
        ):
            chosen = _Chosen(name if chosen is None else chosen.name, self._range)
        assert chosen is not None
        self._collection.set_default(chosen.name, chosen.range)
        self._collection.keep_destroyed(chosen.range)

    def _chosen(self) -> _Chosen | None:
        """The chosen default that applies to this peer, if there is one."""
        by_range = self._default_of_range()
        if by_range is not None and self._is_available(by_range):
            return _Chosen(by_range, self._range)
        shared = self._collection.default_name
        if self._is_available(shared):
            return _Chosen(shared, None) if self._may_share(shared) else None
        # Root chose another UID's ccache, and it no longer exists.
        own_name = self._collection.own_name
        shares = self._access.shares_default(self._peer) and self._may_share(own_name)
        return _Chosen(own_name, None) if shares else None

    def _default_of_range(self) -> bytes | None:
        """The default of the peer's range, unless it names a ccache that the peer may not read."""
        name = None if self._range is None else self._collection.defaults.of_range(self._range)
        if name is None or not self._collection.has(name):
            return name
        return name if self._access.may_read(self._peer, self._collection.label_of(name)) else None

    def _may_share(self, name: bytes) -> bool:
        """Whether the shared default is a ccache that the peer may use, or a name that it may create."""
        collection, access, peer = self._collection, self._access, self._peer
        if collection.has(name):
            return self._may_use(collection.label_of(name))
        return access.may_create_shared_default(peer, name)

    def _may_use(self, label: str | None) -> bool:
        return self._access.may_use(self._peer, label)

    def _has_one_usable(self) -> bool:
        """Whether there is exactly one ccache that the peer may use."""
        return sum(self._may_use(ccache.label) for ccache in self._collection) == 1

    def _is_available(self, name: bytes) -> bool:
        """Whether this can be the default: another UID's ccache has to exist or to be awaited."""
        collection = self._collection_of(name)
        return collection is self._collection or self._session.awaits(name) or self._exists(name)

    def _exists(self, name: bytes) -> bool:
        collection = self._collection_of(name)
        return collection.has(name) and self._access.may_read(self._peer, collection.label_of(name))

    def _collection_of(self, name: bytes) -> Collection:
        uid = self._peer.uid
        if uid == ROOT:
            uid = self._access.collection_to_change(self._peer, name)
        if uid == self._collection.uid:
            return self._collection
        if uid not in self._others:
            raise CollectionNeededError(uid)
        return self._others[uid]

    def _draw(self) -> bytes:
        if self._new_name is None:
            self._new_name = self._collection.unused_name()
        return self._new_name
