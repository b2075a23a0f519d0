"""One ccache: whose tickets it holds, the KDC offset, and the credentials."""

import secrets
from dataclasses import dataclass, field, replace

from pykcm.ccaches.credentials import Credentials
from pykcm.ccaches.expiry import EMPTY_LIFETIME, expiry
from pykcm.protocol.principal import Principal
from pykcm.protocol.wire import UUID_SIZE

_UID_SIZE = 4

# In seconds, either way: a KDC takes a client's time for right within five minutes.
_SMALL_KDC_OFFSET = 60

# The label of a ccache whose own cannot be read. It is no label at all: where labels count, it is nobody's.
UNKNOWN_LABEL = ""

# Bytes of memory that a ccache takes up beside those that grow with its contents. Measured.
OVERHEAD = 2000


def new_ccache_uuid(uid: int) -> bytes:
    """A UUID for a ccache of this UID. It begins with the UID (see uid_in); the rest is random."""
    return uid.to_bytes(_UID_SIZE) + secrets.token_bytes(UUID_SIZE - _UID_SIZE)


def uid_in(uuid: bytes) -> int:
    """The UID whose collection the ccache of this UUID is in: a UUID finds its ccache without an index."""
    return int.from_bytes(uuid[:_UID_SIZE])


@dataclass(slots=True, eq=False)
class CCache:
    """A ccache that has been initialised.

    `uuid` is 16 bytes and stays as long as the name does; `name` is any bytes but NUL; `label` is the
    SELinux label of the peer that created it, None where there is no SELinux; `kdc_offset` is the KDC's
    clock less the client's, in seconds; `empty_expires` is what `expires` is as long as there are no tickets.
    """

    uuid: bytes
    name: bytes
    principal: Principal
    label: str | None = None
    kdc_offset: int = 0
    empty_expires: int | None = None
    credentials: Credentials = field(default_factory=Credentials)
    packed_principal: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.packed_principal = self.principal.pack()

    def copy(self) -> "CCache":
        """One with the same contents that changes by itself; credentials never change, and are shared."""
        return replace(self, credentials=self.credentials.copy())

    @property
    def size(self) -> int:
        """Bytes of memory that it takes up, about: what counts towards quotas."""
        # The principal is there as it is sent, and in its parts.
        return self.credentials.size + 2 * len(self.packed_principal) + OVERHEAD

    @property
    def needs_kdc_offset(self) -> bool:
        """Whether a client has to know the KDC offset in order to use the tickets."""
        return abs(self.kdc_offset) > _SMALL_KDC_OFFSET

    @property
    def has_tickets(self) -> bool:
        return self.credentials.latest_end is not None

    def has_expired(self, now: float) -> bool:
        """Whether all of its tickets have."""
        return self.expires is not None and self.expires <= now

    @property
    def empty_since(self) -> int | None:
        """When a ccache without tickets was created or lost its last one; None: unknown, or it has tickets.

        In seconds since the epoch. It is derived from the stored expiry, and so survives a restart.
        """
        if self.has_tickets or self.empty_expires is None:
            return None
        return self.empty_expires - EMPTY_LIFETIME

    @property
    def expires(self) -> int | None:
        """When the last of its tickets has ended, in seconds since the epoch; None: never."""
        latest_end = self.credentials.latest_end
        return self.empty_expires if latest_end is None else expiry(latest_end, self.kdc_offset)
