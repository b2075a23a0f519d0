"""The expiry of a ccache: it expires with the last of its tickets.

Programs also keep configuration entries in a ccache, written as credentials (see is_ticket). These entries
expire with their ccache and never keep it alive. A ticket without an endtime never ends, because it may be in
use.
"""

from collections.abc import Iterable

from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import has_pseudo_realm, is_tgs

# Later than every endtime that a ticket can have.
NO_END = 2**32

# In seconds: the time after which a ccache without tickets has expired. A client that has just initialised a
# ccache is about to store tickets in it.
EMPTY_LIFETIME = 3600


def empty_expires(now: float) -> int:
    """The expiry of a ccache that loses its last ticket now; both in seconds since the epoch."""
    return int(now) + EMPTY_LIFETIME


def is_ticket(credential: Credential) -> bool:
    """Whether a credential is a ticket, and not an entry in which a program keeps its own data.

    Most entries have a pseudo-realm. Entries in a real realm have none of the four times, because every KDC
    sets authtime and endtime in its tickets. A credential for krbtgt always counts as a ticket: if it is in
    use, its loss would end the user's login.
    """
    server = credential.equality.server
    if has_pseudo_realm(server):
        return False
    return credential.endtime != 0 or is_tgs(server) or any(credential.times)


def end_of(credential: Credential) -> int | None:
    """When it ends, in seconds since the epoch by the KDC's clock, or NO_END; None if it is no ticket."""
    return credential.endtime or NO_END if is_ticket(credential) else None


def tgt_end_of(credential: Credential) -> int | None:
    """Like end_of, but None for every ticket that is not a TGT.

    TGTs of other realms count as well: they end no later than the TGT with which they were obtained.
    """
    return end_of(credential) if is_tgs(credential.equality.server) else None


def expiry(latest_end: int, kdc_offset: int) -> int | None:
    """When the last ticket ends, in seconds since the epoch by this machine's clock; None: never.

    The KDC offset was measured when the tickets were obtained. The clock may have been corrected since, so
    the later of both times counts.
    """
    return None if latest_end == NO_END else latest_end - min(kdc_offset, 0)


class LatestEnd:
    """The latest of many ends, maintained without a scan for each end that is added or removed."""

    __slots__ = ("_end", "_times")

    def __init__(self) -> None:
        self._end: int | None = None
        # How many tickets have this end; most have that of the TGT. 0: all of these were removed, and the
        # latest end has to be found among the rest.
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
        """The latest end among `credentials`, which were added and not removed. None: no ticket."""
        if not self._times:
            self._end = None
            self._times = 1
            for credential in credentials:
                self.add(end_of(credential))
        return self._end
