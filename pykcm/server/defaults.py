"""Which ccache is a peer's default: the one that all of its UID share, or one of its own.

Peers whose label puts them above the system's lowest level (containers) have a default of their own from
when they set one or fill the one that they were given: nobody else moves it, nor do they move the shared
one. Until then they are given the shared one, as long as it names a ccache that they may use or none. For
whoever that is not so, an unused name is chosen and kept.
"""

from pykcm.ccaches.collection import Collection
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer


class PeerDefault:
    """The default of one peer in its UID's collection, during one operation."""

    __slots__ = ("_access", "_chosen", "_collection", "_peer", "_range")

    def __init__(self, access: Access, peer: Peer, collection: Collection) -> None:
        self._access = access
        self._peer = peer
        self._collection = collection
        self._range = access.range_of(peer)
        self._chosen: bytes | None = None

    def name(self) -> bytes:
        """The default's name. One that is chosen now is forgotten, unless `keep` is called."""
        collection = self._collection
        if self._range is None:
            return collection.default_name
        own = self._own()
        if own is not None:
            return own
        if self._may_share():
            return collection.default_name
        if self._chosen is None:
            self._chosen = collection.unused_name()
        return self._chosen

    def keep(self) -> None:
        """Make a name that was chosen the peer's own default."""
        if self._range is not None and self._chosen is not None:
            self._collection.set_default(self._chosen, self._range)

    def set(self, name: bytes) -> None:
        """SET_DEFAULT_CACHE."""
        if self._range is None:
            self._collection.set_default(name)
            return
        shares = self._access.shares_default(self._peer)
        if shares and self._collection.own_default(self._range) is None and self._may_share():
            self._collection.set_default(name)
        else:
            self._collection.set_default(name, self._range)

    def filled(self, name: bytes) -> None:
        """The peer has filled the ccache `name`: if that was its default, it stays so whatever others do."""
        if self._range is None or name != self.name():
            return
        if self._chosen is not None or not self._access.shares_default(self._peer):
            self._collection.set_default(name, self._range)

    def _own(self) -> bytes | None:
        """The peer's own default, unless it names a ccache that the peer may not read."""
        own = None if self._range is None else self._collection.own_default(self._range)
        if own is None or not self._collection.has(own):
            return own
        return own if self._access.may_read(self._peer, self._collection.label_of(own)) else None

    def _may_share(self) -> bool:
        """Whether the shared default is one that the peer may create, or use as it likes."""
        collection, access, peer = self._collection, self._access, self._peer
        name = collection.default_name
        if collection.has(name):
            label = collection.label_of(name)
            return access.may_read(peer, label) and access.may_change(peer, label)
        # Root's may be in another UID's collection, whose labels are not known here.
        return access.shares_default(peer) or access.collection_to_change(peer, name) == collection.uid
