"""One ccache: its principal, KDC offset, label and credentials."""

import os

import msgspec

from pykcm.ccaches.credentials import Credentials
from pykcm.ccaches.expiry import EMPTY_LIFETIME, expiry
from pykcm.protocol.principal import Principal
from pykcm.protocol.wire import UUID_SIZE

_UID_SIZE = 4

# In seconds, in either direction. A KDC accepts a client's time that is up to five minutes wrong.
_SMALL_KDC_OFFSET = 60

# Stands for a label that cannot be read. It is not valid: where labels count, no peer gets access by it.
UNKNOWN_LABEL = ""

# Bytes of memory that an empty ccache takes up. Measured.
OVERHEAD = 2000


def new_ccache_uuid(uid: int) -> bytes:
    """A UUID for a ccache of this UID. It begins with the UID (see uid_in); the rest is random."""
    return uid.to_bytes(_UID_SIZE) + os.urandom(UUID_SIZE - _UID_SIZE)


def uid_in(uuid: bytes) -> int:
    """The UID whose collection the ccache of this UUID is in: a UUID finds its ccache without an index."""
    return int.from_bytes(uuid[:_UID_SIZE])


class CCache(msgspec.Struct, eq=False):
    """A ccache that has been initialised.

    `uuid`: 16 bytes, the same as long as the ccache has this name. `name`: any bytes except NUL. `label`: the
    SELinux label of the peer that created it, None without SELinux. `kdc_offset`: the KDC's clock minus the
    client's, in seconds. `empty_expires`: the value of `expires` while there are no tickets.
    `packed_principal` is always that of `principal`.
    """

    uuid: bytes
    name: bytes
    principal: Principal
    label: str | None = None
    kdc_offset: int = 0
    empty_expires: int | None = None
    credentials: Credentials = msgspec.field(default_factory=Credentials)
    packed_principal: bytes = b""

    def __post_init__(self) -> None:
        self.packed_principal = self.principal.pack()

    def copy(self) -> "CCache":
        """Return an independent copy. The credentials are shared, because they never change."""
        return msgspec.structs.replace(self, credentials=self.credentials.copy())

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes up; this counts towards quotas."""
        # The principal is kept both packed and in its parts.
        return self.credentials.size + 2 * len(self.packed_principal) + OVERHEAD

    @property
    def needs_kdc_offset(self) -> bool:
        """Whether a client needs the KDC offset in order to use the tickets."""
        return abs(self.kdc_offset) > _SMALL_KDC_OFFSET

    @property
    def has_tickets(self) -> bool:
        return self.credentials.latest_end is not None

    def has_expired(self, now: float) -> bool:
        """Whether all of its tickets have expired."""
        return self.expires is not None and self.expires <= now

    @property
    def empty_since(self) -> int | None:
        """When a ccache without tickets was created or lost its last one, in seconds since the epoch.

        None: unknown, or it has tickets. The time follows from the stored expiry, so it survives a restart.
        """
        if self.has_tickets or self.empty_expires is None:
            return None
        return self.empty_expires - EMPTY_LIFETIME

    @property
    def expires(self) -> int | None:
        """When its last ticket ends, in seconds since the epoch; None: never."""
        latest_end = self.credentials.latest_end
        return self.empty_expires if latest_end is None else expiry(latest_end, self.kdc_offset)
