"""Every access decision: by UID and name, by SELinux label, and by level for defaults.

The rest of the daemon asks here and decides nothing by itself. All rules are functions of the peer, and of a
name or a label.
"""

import logging
from collections.abc import Callable, Collection

from pykcm.logs import LimitedLog, User
from pykcm.peer.identity import ROOT, Peer, uid_of
from pykcm.peer.labels import (
    SYSTEM_LOW,
    LabelError,
    SecurityContext,
    categorized,
    low_target_for,
    parse_label,
    target_for,
)
from pykcm.peer.names import MAX_NAME, belongs_to, collection_of, owner_of
from pykcm.peer.selinux import Permission, Policy
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

# Lines that users cause.
_FAILURES = LimitedLog(log, "no answer from the SELinux policy", 1)

# Only its range counts: a peer may use such a ccache only if it has all categories.
_ALL_CATEGORIES = "system_u:object_r:unlabeled_t:s0:c0.c1023"


class Access:
    """The rules. No name at all means the peer's default ccache.

    With `root_lists_all`, root's list of ccaches is everyone's, as Heimdal's is; otherwise it is root's own.
    Without a `policy` (a kernel without SELinux) labels play no part.
    """

    def __init__(self, *, root_lists_all: bool = False, policy: Policy | None = None) -> None:
        self._root_lists_all = root_lists_all
        self._policy = policy

    # By UID and name

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
        if peer.uid == ROOT:
            return collection_of(name)
        owner = owner_of(name)
        if owner is None:
            raise KcmError(Code.CC_BADNAME, "the name belongs to no UID, and only root may use such a name")
        raise KcmError(refusal, "the name belongs to another user")

    def lists_all(self, peer: Peer) -> bool:
        """Whether the peer's list of ccaches is everyone's."""
        return self._root_lists_all and peer.uid == ROOT

    # By label: a ccache carries the SELinux label of the peer that created it (None: no SELinux then).
    # Every look-up of a ccache for a peer passes through these rules, root's as well.

    def may_read(self, peer: Peer, label: str | None) -> bool:
        """Whether a ccache of this label exists for the peer at all."""
        return self._policy is None or self._is_allowed(self._policy, peer, label, Permission.READ)

    def may_change(self, peer: Peer, label: str | None) -> bool:
        """Whether the peer may change a ccache of this label, given that it may read it."""
        return self._policy is None or self._is_allowed(self._policy, peer, label, Permission.WRITE)

    def may_use(self, peer: Peer, label: str | None) -> bool:
        """Whether the peer may both read and change a ccache of this label."""
        return self.may_read(peer, label) and self.may_change(peer, label)

    def is_unconfined(self, peer: Peer) -> bool:
        """Whether the SELinux policy keeps no ccache from the peer."""
        return self.may_use(peer, _ALL_CATEGORIES)

    def may_trace(self, peer: Peer, traced: Peer) -> bool:
        """Whether the peer may know all that the daemon answers to the traced peer."""
        # A peer that may read what the traced one creates may read all that the traced one may. On the
        # lowest level this does not hold: a user without categories may know of ccaches that have them all.
        return self.is_unconfined(peer) or (
            self.may_read(peer, traced.label) and not self.shares_default(traced)
        )

    def label_after_write(self, peer: Peer, label: str | None, contents_label: str | None) -> str | None:
        """The label of a ccache that had `label`, once the peer has filled it with contents of another one.

        The label stays if the ccache's creator could read these contents anyway. Otherwise a container could
        create a ccache with a principal's name, and wait for the host's kinit to put a ticket into it.
        """
        if self._policy is None or label == contents_label:
            return label
        could_read = label is not None and self._is_allowed(
            self._policy, peer._replace(label=label), contents_label, Permission.READ
        )
        return label if could_read else contents_label

    @staticmethod
    def label_of_import(peer: Peer, label: str | None) -> str | None:
        """The label of an imported ccache: the peer's, if it comes from a host without labels."""
        return peer.label if label is None else label

    @staticmethod
    def may_import_over(label: str | None, existing: str | None) -> bool:
        """Whether an imported ccache of this label may replace one, which keeps its own label.

        They have to be at the same level, unless the import has no label.
        """
        return label is None or _range(label) == _range(existing)

    def _is_allowed(self, policy: Policy, peer: Peer, label: str | None, permission: Permission) -> bool:
        try:
            asking = peer.label or ""
            target = target_for(asking, label)
            low_target = low_target_for(asking, label)
            # The low level counts only if the peer cannot have categories. It does not count where a policy
            # merely knows fewer of them than there were.
            if low_target is not None and not any(map(policy.has_context, (target, categorized(asking)))):
                target = low_target
            return policy.allows(asking, target, permission)
        # Without an answer there is no access, whatever the error is.
        except Exception as error:  # noqa: BLE001
            _FAILURES.write(
                logging.ERROR,
                peer.uid,
                "%s: no answer from the SELinux policy, so denied to %s: %s of a ccache of %s: %s",
                User(peer.uid),
                _quoted(peer.label),
                permission,
                _quoted(label),
                error,
                fields={"KCM_UID": peer.uid},
            )
            return False

    # By level: which default a peer is given, and which it may move

    def range_of(self, peer: Peer) -> str | None:
        """The SELinux range of the peer, by which its default may be kept; None: there is no range.

        Raises KcmError where the peer has no valid label.
        """
        return None if self._policy is None else self._context(peer).range

    def shares_default(self, peer: Peer) -> bool:
        """Whether the peer moves the shared default: peers on the system's lowest level do."""
        return self._policy is None or self._context(peer).level in {None, SYSTEM_LOW}

    def may_move_default(self, peer: Peer, range_: str | None) -> bool:
        """Whether the peer may move the default of this range, or the shared one (None)."""
        if range_ is None or self.range_of(peer) is None:
            return self.shares_default(peer)
        return range_ == self.range_of(peer)

    def may_administer_default(self, peer: Peer, range_: str | None) -> bool:
        """Whether the peer may move this default on the control socket, where it may be any UID's."""
        return self.is_unconfined(peer) or self.may_move_default(peer, range_)

    def may_create_shared_default(self, peer: Peer, name: bytes) -> bool:
        """Whether the peer may be given the shared default `name` as long as no ccache has that name.

        Root above the lowest level may not, if root's default is the name of another UID's ccache.
        """
        return self.shares_default(peer) or self.collection_to_change(peer, name) == peer.uid

    @staticmethod
    def _context(peer: Peer) -> SecurityContext:
        try:
            return parse_label(peer.label or "")
        except LabelError as error:
            raise KcmError(Code.FCC_PERM, f"the peer's label is {error}") from None


class RequestAccess:
    """Which users may make which request on the control socket.

    Administrators may make every request. A request may name other users who may make it, and no other.
    """

    def __init__(
        self,
        administrators: Collection[int] = frozenset({ROOT}),
        uid_of_user: Callable[[str], int | None] = uid_of,
    ) -> None:
        self._administrators = administrators
        self._uid_of_user = uid_of_user
        # A user's UID does not change, and a look-up may take long.
        self._uids: dict[str, int | None] = {}

    def is_administrator(self, peer: Peer) -> bool:
        return peer.uid in self._administrators

    def may_request(self, peer: Peer, users: Collection[str]) -> bool:
        """Whether the peer may make a request that names these users."""
        return self.is_administrator(peer) or any(self._is_user(peer, user) for user in users)

    def _is_user(self, peer: Peer, user: str) -> bool:
        if user not in self._uids:
            self._uids[user] = self._uid_of_user(user)
        return peer.uid == self._uids[user]


def _range(label: str | None) -> str | None:
    return None if label is None else parse_label(label).range


def _quoted(label: str | None) -> str:
    return "(none)" if label is None else f"'{escape(label.encode(errors='replace'))}'"
