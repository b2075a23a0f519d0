"""The context that an operation is called in."""

from collections.abc import Mapping, Sequence

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.protocol.codes import Code, KcmError
from pykcm.server.defaults import PeerDefault
from pykcm.server.sessions import Session


class Context:
    """The context of one operation: the peer, the session of its connection, and the collections.

    `uids`: those of the collections that the operation is about, the main one first. `by_uid`: these
    collections, and others that the operation turned out to need. If not `may_change`, it may raise
    ChangeNeededError.
    """

    __slots__ = ("_by_uid", "_default", "_may_change", "_uids", "access", "peer", "session")

    def __init__(
        self,
        peer: Peer,
        session: Session,
        access: Access,
        uids: Sequence[int],
        by_uid: Mapping[int, Collection],
        *,
        may_change: bool = True,
    ) -> None:
        self.peer = peer
        self.session = session
        self.access = access
        self._uids = uids
        self._by_uid = by_uid
        self._may_change = may_change
        self._default: PeerDefault | None = None

    @property
    def collection(self) -> Collection:
        return self._by_uid[self._uids[0]]

    @property
    def collections(self) -> list[Collection]:
        return [self._by_uid[uid] for uid in self._uids]

    def default(self, collection: Collection) -> PeerDefault:
        """The peer's default ccache; `collection` is that of the peer's UID."""
        if self._default is None:
            self._default = PeerDefault(
                *(self.access, self.peer, self.session, collection, self._by_uid),
                may_change=self._may_change,
            )
        return self._default

    def may_read(self, ccache: CCache) -> bool:
        return self.access.may_read(self.peer, ccache.label)

    def readable(self, name: bytes) -> CCache:
        """The ccache of this name; FCC_NOFILE if there is none for this peer, EIO if it is damaged."""
        collection = self._by_uid[self._uids[0]]
        try:
            ccache = collection.get(name)
        except KcmError:
            if not self.access.may_read(self.peer, collection.label_of(name)):
                raise KcmError(Code.FCC_NOFILE) from None
            raise
        if ccache is None or not self.access.may_read(self.peer, ccache.label):
            raise KcmError(Code.FCC_NOFILE)
        return ccache

    def changeable(self, name: bytes) -> CCache:
        """Like `readable`, for a change; FCC_PERM if the peer may only read the ccache."""
        ccache = self.readable(name)
        if not self.access.may_change(self.peer, ccache.label):
            raise KcmError(Code.FCC_PERM)
        return ccache

    def check_destroyable(self, name: bytes) -> None:
        """Raise as `changeable` does, except that a damaged ccache may be destroyed."""
        collection = self.collection
        if not collection.has(name) or not self.access.may_read(self.peer, collection.label_of(name)):
            raise KcmError(Code.FCC_NOFILE)
        if not self.access.may_change(self.peer, collection.label_of(name)):
            raise KcmError(Code.FCC_PERM)

    def check_creatable(self, name: bytes, collection: Collection) -> None:
        """FCC_PERM if the name is taken by a ccache that the peer may not change."""
        if collection.has(name) and not self.access.may_use(self.peer, collection.label_of(name)):
            raise KcmError(Code.FCC_PERM)

    def note_filled(self, ccache: CCache, collection: Collection, contents_label: str | None) -> None:
        """Note that the peer has created or overwritten the ccache with contents of this label."""
        collection.relabel(ccache, self.access.label_after_write(self.peer, ccache.label, contents_label))
        self.session.filled(ccache.name)
        if self.peer.label is not None and collection.uid == self.peer.uid:
            self.default(collection).filled(ccache.name)
