"""What a peer may use: every decision about access is made here."""

import logging

from pykcm.logs import LimitedLog
from pykcm.peer.identity import ROOT, Peer
from pykcm.peer.labels import (
    SYSTEM_LOW,
    Context,
    LabelError,
    categorized,
    low_target_for,
    parse_label,
    target_for,
)
from pykcm.peer.names import MAX_NAME, belongs_to, owner_of
from pykcm.peer.selinux import Permission, Policy
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

# Lines that users cause.
_FAILURES = LimitedLog(log, "no answer from the SELinux policy", 1)


class Access:
    """The rules, by name and by label. No name at all means the peer's default ccache.

    With `root_lists_all`, root's list of ccaches is everyone's, as Heimdal's is; otherwise it is root's own.
    Without a `policy` (a kernel without SELinux) labels play no part.
    """

    def __init__(self, *, root_lists_all: bool = False, policy: Policy | None = None) -> None:
        self._root_lists_all = root_lists_all
        self._policy = policy

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
        if belongs_to(name, peer.uid):
            return peer.uid
        owner = owner_of(name)
        if peer.uid == ROOT:
            # Root may use every name; free ones are its own.
            return ROOT if owner is None else owner
        if owner is None:
            raise KcmError(Code.CC_BADNAME, "the name belongs to no UID, and only root may use such a one")
        raise KcmError(refusal, f"the name belongs to UID {owner}")

    def lists_all(self, peer: Peer) -> bool:
        return self._root_lists_all and peer.uid == ROOT

    # By label: a ccache carries the SELinux label of the peer that created it (None: no SELinux then).
    # Every look-up of a ccache for a peer passes through these two, root's as well.

    def may_read(self, peer: Peer, label: str | None) -> bool:
        """Whether a ccache created under `label` exists for this peer at all."""
        return self._policy is None or self._is_allowed(self._policy, peer, label, Permission.READ)

    def may_change(self, peer: Peer, label: str | None) -> bool:
        """Whether the peer may change a ccache created under `label`, given that it may read it."""
        return self._policy is None or self._is_allowed(self._policy, peer, label, Permission.WRITE)

    def keeps_label(self, peer: Peer, label: str | None, writer: str | None) -> bool:
        """Whether a ccache created under `label` keeps it when the peer fills it with what is of `writer`.

        It does where its creator could read that anyway. Otherwise a container could wait, with a ccache of
        a principal's name, for the ticket that the host's kinit puts into it.
        """
        if self._policy is None or label == writer:
            return True
        if label is None:
            return False
        return self._is_allowed(self._policy, peer._replace(label=label), writer, Permission.READ)

    def _is_allowed(self, policy: Policy, peer: Peer, label: str | None, permission: Permission) -> bool:
        try:
            asking = peer.label or ""
            target = target_for(asking, label)
            low_target = low_target_for(asking, label)
            # Not where a policy merely knows fewer categories than there were.
            if low_target is not None and not any(map(policy.has_context, (target, categorized(asking)))):
                target = low_target
            return policy.allows(asking, target, permission)
        # Whatever keeps the policy from answering, nobody gets access by it.
        except Exception as error:  # noqa: BLE001
            _FAILURES.write(
                logging.ERROR,
                peer.uid,
                "UID %d: no answer from the SELinux policy, so denied to %s: %s of a ccache of %s: %s",
                peer.uid,
                _shown(peer.label),
                permission,
                _shown(label),
                error,
                fields={"KCM_UID": peer.uid},
            )
            return False

    def range_of(self, peer: Peer) -> str | None:
        """The SELinux range of the peer, by which defaults of its own are kept; None: it has none of its own.

        Raises KcmError where the peer has no label that could be right.
        """
        return None if self._policy is None else self._context(peer).range

    def shares_default(self, peer: Peer) -> bool:
        """Whether the peer moves the default that all share: those on the system's lowest level do."""
        return self._policy is None or self._context(peer).level in {None, SYSTEM_LOW}

    def moves_default(self, peer: Peer, whose: str | None) -> bool:
        """Whether the peer moves the default of the range `whose`, or the shared one (None)."""
        if whose is None or self.range_of(peer) is None:
            return self.shares_default(peer)
        return whose == self.range_of(peer)

    @staticmethod
    def _context(peer: Peer) -> Context:
        try:
            return parse_label(peer.label or "")
        except LabelError as error:
            raise KcmError(Code.FCC_PERM, f"the peer's label is {error}") from None


def _shown(label: str | None) -> str:
    return "(none)" if label is None else f"'{escape(label.encode(errors='replace'))}'"
