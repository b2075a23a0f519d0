"""When a ccache expires: with the last of its tickets.

Programs also keep data of their own in a ccache, written as credentials (see is_ticket). These entries expire
with their ccache and never keep one alive. A ticket whose endtime is not set never ends, because it may be in
use.
"""

from collections.abc import Iterable

from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import has_pseudo_realm, is_tgs

# Later than any endtime that a ticket can have.
NO_END = 2**32

# How long a ccache without tickets waits for them before it has expired, in seconds: a client that has
# just initialised one is about to store them.
EMPTY_LIFETIME = 3600


def is_ticket(credential: Credential) -> bool:
    """Whether a credential is a ticket, and not an entry in which a program keeps data of its own.

    An entry is known by its realm. Entries in a real realm have none of the four times set, because every KDC
    sets authtime and endtime in the tickets that it issues. A credential for the KDC's own principal, krbtgt,
    is a ticket even so: if it is in use, its loss would cost the user the login.
    """
    server = credential.equality.server
    if has_pseudo_realm(server):
        return False
    return credential.endtime != 0 or is_tgs(server) or any(credential.times)


def end_of(credential: Credential) -> int | None:
    """When it ends, in seconds since the epoch by the KDC's clock, or NO_END; None: it is no ticket."""
    return credential.endtime or NO_END if is_ticket(credential) else None


def tgt_end_of(credential: Credential) -> int | None:
    """Like end_of, but None for any ticket that is no TGT.

    Those of other realms count as well: they end no later than the TGT that they were got with.
    """
    return end_of(credential) if is_tgs(credential.equality.server) else None


def expiry(latest_end: int, kdc_offset: int) -> int | None:
    """When the last ticket has ended, in seconds since the epoch by this machine's clock; None: never.

    The KDC offset is from when the tickets were got, and the clock may have been set right since: whichever
    way the ticket lasts longer counts.
    """
    return None if latest_end == NO_END else latest_end - min(kdc_offset, 0)


class LatestEnd:
    """The greatest of many ends, kept without looking at all of them for each that comes or goes."""

    __slots__ = ("_end", "_times")

    def __init__(self) -> None:
        self._end: int | None = None
        # How many tickets have this end, most having that of the TGT; 0: all of those have gone, and the
        # greatest is to be found among the rest.
        self._times = 1

    def copy(self) -> "LatestEnd":
        copied = LatestEnd()
        copied._end, copied._times = self._end, self._times
        return copied

    def add(self, end: int | None) -> None:
        if end is None or not self._times:
            return
        if self._end is None or end > self._end:
            self._end = end
            self._times = 1
        elif end == self._end:
            self._times += 1

    def remove(self, end: int | None) -> None:
        if end is not None and end == self._end and self._times:
            self._times -= 1

    def among(self, credentials: Iterable[Credential]) -> int | None:
        """The greatest; `credentials` are those that have been added and not removed. None: no ticket."""
        if not self._times:
            self._end = None
            self._times = 1
            for credential in credentials:
                self.add(end_of(credential))
        return self._end
