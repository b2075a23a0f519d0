"""What a peer may use: every decision about access is made here."""

from pykcm.peer.identity import ROOT, Peer
from pykcm.peer.names import MAX_NAME, owner_of
from pykcm.protocol.codes import Code, KcmError


class Access:
    """The rules, by name and by label. No name at all means the peer's default ccache.

    With `root_lists_all`, root's list of ccaches is everyone's, as Heimdal's is; otherwise it is root's own.
    """

    def __init__(self, *, root_lists_all: bool = False) -> None:
        self._root_lists_all = root_lists_all

    def collection_to_read(self, peer: Peer, name: bytes) -> int:
        """The UID whose collection `name` is in; another's is answered as if it did not exist."""
        return self._collection(peer, name, Code.FCC_NOFILE)

    def collection_to_change(self, peer: Peer, name: bytes) -> int:
        """The UID whose collection `name` is in; another's is refused."""
        return self._collection(peer, name, Code.FCC_PERM)

    @staticmethod
    def _collection(peer: Peer, name: bytes, refusal: Code) -> int:
        if not name:
            return peer.uid
        if len(name) > MAX_NAME:
            raise KcmError(Code.CC_BADNAME, f"a name of {len(name)} bytes (at most {MAX_NAME} are accepted)")
        owner = owner_of(name)
        if peer.uid == ROOT:
            # Root may use every name; free ones are its own.
            return ROOT if owner is None else owner
        if owner is None:
            raise KcmError(Code.CC_BADNAME, "the name belongs to no UID, and only root may use such a one")
        if owner != peer.uid:
            raise KcmError(refusal, f"the name belongs to UID {owner}")
        return owner

    def lists_all(self, peer: Peer) -> bool:
        return self._root_lists_all and peer.uid == ROOT

    # By label: a ccache carries the SELinux label of the peer that created it (None: no SELinux then).
    # Every look-up of a ccache for a peer passes through these two; so far a UID's labels share all.

    def may_read(self, peer: Peer, label: str | None) -> bool:
        """Whether a ccache created under `label` exists for this peer at all."""
        del peer, label
        return True

    def may_change(self, peer: Peer, label: str | None) -> bool:
        """Whether the peer may change a ccache created under `label`, given that it may read it."""
        del peer, label
        return True
