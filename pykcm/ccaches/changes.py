"""The changes that a collection records: the store writes them, and events are made from them.

A change holds the ccache object itself, so that it shows the ccache as it is after the whole operation. An
overwritten ccache or a replaced credential is in the change as it was before.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from pykcm.ccaches.defaults import Defaults
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import is_tgs

if TYPE_CHECKING:
    from pykcm.ccaches.ccache import CCache


# The option that removes an expired ccache although no room is needed.
EXPIRED = "expired_retention"


class DefaultChanged(msgspec.Struct, frozen=True):
    """The chosen defaults are now `defaults`; they were `before`."""

    defaults: Defaults
    before: Defaults


class CCacheCreated(msgspec.Struct, frozen=True):
    """A ccache is new. Its first credentials follow as CredentialWritten.

    `moved_from`: the name that its contents had until now (CCacheMoved follows); None: they are new.
    """

    ccache: "CCache"
    moved_from: bytes | None = None


class CCacheReplaced(msgspec.Struct, frozen=True):
    """A ccache has new contents, in place of those of `overwritten`, and the same name and UUID.

    Its new credentials follow as CredentialWritten. The old ones that none of them takes the place of follow
    as OldCredentialRemoved, or all together as CredentialsCleared. `moved_from` as in CCacheCreated.
    """

    ccache: "CCache"
    overwritten: "CCache"
    moved_from: bytes | None = None

    @property
    def renews(self) -> bool:
        """Whether the new contents are the same principal's, with a TGT that ends later."""
        old, new = self.overwritten.credentials.tgt_end, self.ccache.credentials.tgt_end
        is_same = self.overwritten.principal.identity == self.ccache.principal.identity
        return is_same and old is not None and new is not None and old < new


class KdcOffsetChanged(msgspec.Struct, frozen=True):
    """The KDC offset of a ccache was `before`, in seconds."""

    ccache: "CCache"
    before: int


class LabelChanged(msgspec.Struct, frozen=True):
    """The SELinux label of a ccache was `before`."""

    ccache: "CCache"
    before: str | None


class ExpiryChanged(msgspec.Struct, frozen=True):
    """The expiry of a ccache has changed, because its tickets have."""

    ccache: "CCache"


class CCacheRemoved(msgspec.Struct, frozen=True):
    """A ccache was removed with its credentials; `was_last`: the collection has no other.

    `ccache` is None where its secrets could not be read. `reason`: the option that demanded the removal (an
    expiry or an eviction); "": it was destroyed on request.
    """

    uuid: bytes
    name: bytes
    was_last: bool
    ccache: "CCache | None"
    label: str | None
    reason: str = ""


class CCacheMoved(msgspec.Struct, frozen=True):
    """A ccache was moved. Its credentials are now those of `target`, in the collection of `uid`.

    `overwritten`: the ccache that had the name of `target` before, if there was one; its credentials are
    removed. `was_last`: the collection has no other ccache.
    """

    ccache: "CCache"
    uid: int
    target: "CCache"
    overwritten: "CCache | None"
    was_last: bool


class CredentialsCleared(msgspec.Struct, frozen=True):
    """All credentials of the overwritten contents were removed: the new contents have none."""

    ccache: "CCache"


class OldCredentialRemoved(msgspec.Struct, frozen=True):
    """One credential of the overwritten contents was removed: the new contents have fewer."""

    ccache: "CCache"
    uuid: bytes


class CredentialWritten(msgspec.Struct, frozen=True):
    """A credential of new contents, at the end or in place of an old one with the same UUID."""

    ccache: "CCache"
    uuid: bytes
    credential: Credential


class CredentialStored(msgspec.Struct, frozen=True):
    """A STORE: the credential is new at the end, or has replaced its equal, which had the same UUID."""

    ccache: "CCache"
    uuid: bytes
    credential: Credential
    replaced: Credential | None

    @property
    def renews(self) -> bool:
        """Whether a TGT has replaced one that ends earlier."""
        return (
            self.replaced is not None
            and is_tgs(self.credential.equality.server)
            and self.replaced.endtime < self.credential.endtime
        )


class CredentialRemoved(msgspec.Struct, frozen=True):
    """One credential was removed. `reason`: the option that demanded the eviction; "": it was requested."""

    ccache: "CCache"
    uuid: bytes
    credential: Credential
    reason: str = ""


Change = (
    DefaultChanged
    | CCacheCreated
    | CCacheReplaced
    | KdcOffsetChanged
    | LabelChanged
    | ExpiryChanged
    | CCacheRemoved
    | CCacheMoved
    | CredentialsCleared
    | OldCredentialRemoved
    | CredentialWritten
    | CredentialStored
    | CredentialRemoved
)


# Bytes that a credential counts in addition to its own, for its secret.
_CREDENTIAL = 1024


def written_size(changes: Iterable[Change]) -> int:
    """About how many bytes the changes write and delete, as a measure of the store's work."""
    size = 0
    for change in changes:
        match change:
            case CredentialWritten() | CredentialStored() | CredentialRemoved():
                size += _CREDENTIAL + len(change.credential.blob)
            case CCacheReplaced():
                size += change.overwritten.size
            case CCacheRemoved(ccache=ccache) if ccache is not None:
                size += ccache.size
    return size


def added_ccaches(changes: Iterable[Change]) -> int:
    """How many ccaches more there are after the changes; negative: how many fewer."""
    added = 0
    for change in changes:
        match change:
            case CCacheCreated():
                added += 1
            case CCacheRemoved() | CCacheMoved():
                added -= 1
    return added


class Removal(msgspec.Struct, frozen=True):
    """A removal that no client requested: of a ccache, or of some of its service tickets.

    `reason` is the option that demanded it; `service_tickets` is their number, None where the ccache itself
    was removed; `is_empty`: it had no tickets.
    """

    ccache: bytes
    reason: str
    service_tickets: int | None = None
    is_empty: bool = False


def removals_in(changes: Iterable[Change]) -> list[Removal]:
    """The expiries and evictions among the changes, in order."""
    removals: list[Removal] = []
    for change in changes:
        match change:
            case CCacheRemoved(name=name, ccache=ccache, reason=reason) if reason:
                removals.append(Removal(name, reason, is_empty=ccache is None or not ccache.has_tickets))
            case CredentialRemoved(ccache=ccache, reason=reason) if reason:
                last = removals[-1] if removals else None
                number = 1
                if last and last.service_tickets and (last.ccache, last.reason) == (ccache.name, reason):
                    number += last.service_tickets
                    removals.pop()
                removals.append(Removal(ccache.name, reason, number))
    return removals
