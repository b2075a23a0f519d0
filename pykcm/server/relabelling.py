"""Which label a ccache has once it is filled: its creator's, or that of its new contents."""

from pykcm.ccaches.collection import Collection
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer


def relabel_filled(
    access: Access, peer: Peer, collection: Collection, name: bytes, label: str | None
) -> None:
    """The peer has created or overwritten the ccache with contents of `label`."""
    ccache = collection.get(name)
    if ccache is not None and not access.keeps_label(peer, ccache.label, label):
        collection.relabel(ccache, label)
