"""Room before refusal: what has to go so that a change keeps within the quotas.

Expired ccaches of the UID go first, the one that expired first ahead. Next are abandoned ccaches, which have
no ticket, the oldest first, and then service tickets of the ccache that is written, the one issued first
ahead. Nothing else goes, and no more than is needed. Here it is only planned, so that a change for which all
of that would not be enough is refused and takes nothing with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.quotas import Quotas


class Wanted(NamedTuple):
    """What there would be after a change, by the limit that it counts towards; 0: no more than before."""

    max_ccaches: int = 0
    max_uid_ccaches: int = 0
    max_ccache_size: int = 0
    max_uid_size: int = 0
    max_ccache_credentials: int = 0
    max_uid_credentials: int = 0


class Ticket(NamedTuple):
    """A service ticket that may go, with its size in bytes."""

    uuid: bytes
    size: int


class Plan(NamedTuple):
    """What has to go: ccaches, each with the option that demands it, and service tickets by their UUIDs.

    `lacking` is an option whose limit would be exceeded all the same; "" where the plan suffices.
    """

    ccaches: Sequence[tuple[CCache, str]] = ()
    tickets: Sequence[bytes] = ()
    tickets_reason: str = ""
    lacking: str = ""


NOTHING = Plan()

_OF_CCACHE = ("max_ccache_size", "max_ccache_credentials")
_OF_UID = ("max_uid_size", "max_uid_credentials")


# In seconds: a client that has just initialised a ccache is about to store tickets in it.
_ABANDONED_AFTER = 60


def removable_ccaches(ccaches: Iterable[CCache], now: float) -> list[CCache]:
    """The ccaches that may go, in the order in which they go.

    `now`: in seconds since the epoch.
    """
    expired: list[tuple[int, CCache]] = []
    abandoned: list[tuple[int, CCache]] = []
    for ccache in ccaches:
        if ccache.has_tickets:
            if ccache.expires is not None and ccache.expires <= now:
                expired.append((ccache.expires, ccache))
        elif ccache.empty_since is not None and ccache.empty_since + _ABANDONED_AFTER < now:
            abandoned.append((ccache.empty_since, ccache))
    return [ccache for group in (expired, abandoned) for _, ccache in sorted(group, key=itemgetter(0))]


def service_tickets(ccache: CCache, spared: bytes | None) -> Iterator[Ticket]:
    """Those that may go, the one issued first ahead; never the one of the UUID `spared`."""
    credentials = ccache.credentials
    for uuid in credentials.service_tickets:
        credential = credentials.get(uuid)
        if uuid != spared and credential is not None:
            yield Ticket(uuid, credential.size)


def is_needed(quotas: Quotas, wanted: Wanted) -> bool:
    """Whether anything has to go at all."""
    return any(0 < limit < amount for limit, amount in zip(quotas, wanted, strict=True))


def make_plan(quotas: Quotas, wanted: Wanted, ccaches: Iterable[CCache], tickets: Iterable[Ticket]) -> Plan:
    """What has to go of what may, which is given in the order in which it goes."""
    over = _Excess(quotas, wanted)
    to_be_freed = iter(tickets)
    tickets_going: list[bytes] = []
    ccaches_going: list[tuple[CCache, str]] = []
    reason = over.first_of(*_OF_CCACHE) or over.first_of(*_OF_UID)
    # Nothing else helps against this one; and what it frees need not be freed by ccaches.
    while over.first_of(*_OF_CCACHE) and (ticket := next(to_be_freed, None)):
        tickets_going.append(ticket.uuid)
        over.less(ccache_size=ticket.size, ccache_credentials=1, uid_size=ticket.size, uid_credentials=1)
    for ccache in ccaches:
        option = over.first_of("max_ccaches", "max_uid_ccaches", *_OF_UID)
        if not option:
            break
        ccaches_going.append((ccache, option))
        over.less(ccaches=1, uid_size=ccache.size, uid_credentials=len(ccache.credentials))
    while over.first_of(*_OF_UID) and (ticket := next(to_be_freed, None)):
        tickets_going.append(ticket.uuid)
        over.less(ccache_size=ticket.size, ccache_credentials=1, uid_size=ticket.size, uid_credentials=1)
    return Plan(ccaches_going, tickets_going, reason, lacking=over.first_of(*Quotas._fields))


class _Excess:
    """By how much the limits would be exceeded, by option."""

    def __init__(self, quotas: Quotas, wanted: Wanted) -> None:
        limits = zip(Quotas._fields, quotas, wanted, strict=True)
        self._by = {option: amount - limit for option, limit, amount in limits if limit}

    def first_of(self, *options: str) -> str:
        """The first of the options whose limit would be exceeded; "": none."""
        return next((option for option in options if self._by.get(option, 0) > 0), "")

    def less(
        self,
        *,
        ccaches: int = 0,
        ccache_size: int = 0,
        uid_size: int = 0,
        ccache_credentials: int = 0,
        uid_credentials: int = 0,
    ) -> None:
        freed = Wanted(ccaches, ccaches, ccache_size, uid_size, ccache_credentials, uid_credentials)
        for option, amount in zip(Quotas._fields, freed, strict=True):
            if option in self._by:
                self._by[option] -= amount
