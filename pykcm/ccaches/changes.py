"""What an operation changed, in the domain's words: the store turns them into puts and deletes of secrets."""

from typing import TYPE_CHECKING, NamedTuple

from pykcm.protocol.credential import Credential

if TYPE_CHECKING:
    from pykcm.ccaches.ccache import CCache


class DefaultChanged(NamedTuple):
    """The chosen defaults are now these (see Defaults)."""

    name: bytes | None
    own: tuple[tuple[str, bytes], ...] = ()
    destroyed: frozenset[str | None] = frozenset()


class CCacheWritten(NamedTuple):
    """The ccache itself is new or changed; its credentials are not concerned."""

    ccache: "CCache"


class CCacheRemoved(NamedTuple):
    """The ccache is gone with its credentials; `was_last`: the collection has no other."""

    uuid: bytes
    name: bytes
    was_last: bool = False


class CCacheMoved(NamedTuple):
    """The ccache is gone. Its credentials are `target`'s now, in the collection of `uid`.

    The credentials that `target` had before are gone. `was_last`: the collection has no other ccache.
    """

    uuid: bytes
    name: bytes
    uid: int
    target: "CCache"
    was_last: bool = False


class CredentialsCleared(NamedTuple):
    """All credentials of the ccache are gone."""

    ccache: "CCache"


class CredentialWritten(NamedTuple):
    """A credential is new at the end, or has replaced the one of the same UUID where it stood."""

    ccache: "CCache"
    uuid: bytes
    credential: Credential


class CredentialRemoved(NamedTuple):
    """One credential is gone."""

    ccache: "CCache"
    uuid: bytes


Change = (
    DefaultChanged
    | CCacheWritten
    | CCacheRemoved
    | CCacheMoved
    | CredentialsCleared
    | CredentialWritten
    | CredentialRemoved
)


class Removal(NamedTuple):
    """A removal that nobody asked for, for the log: of a ccache, or of some of its service tickets.

    `reason` is the option that demanded it; `service_tickets` is their number, None where the ccache itself
    was removed; `is_empty`: it had no tickets.
    """

    ccache: bytes
    reason: str
    service_tickets: int | None = None
    is_empty: bool = False
