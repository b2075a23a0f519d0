"""Evictions: the plan of what a change has to remove in order to keep within the quotas.

Expired ccaches of the UID are removed first, in the order of their expiry. Next are abandoned ccaches, which
have no ticket, the oldest first. Then the service tickets of the ccache that is written follow, in the order
in which they were issued. Nothing else is removed, and no more than is needed. If even that is not enough,
the change is refused and nothing is removed. The collection carries out the plan.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.quotas import CCacheCount, Quotas, quota_excess
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.text import escape


class Wanted(NamedTuple):
    """The amounts after a change, by the limit that they count towards; 0: no more than before."""

    max_ccaches: int = 0
    max_uid_ccaches: int = 0
    max_ccache_size: int = 0
    max_uid_size: int = 0
    max_ccache_credentials: int = 0
    max_uid_credentials: int = 0


class Ticket(msgspec.Struct, frozen=True):
    """A service ticket that may be removed, with its size in bytes."""

    uuid: bytes
    size: int


class Plan(msgspec.Struct, frozen=True):
    """The planned removals: ccaches, each with the option that demands it, and service tickets by UUID.

    `lacking`: an option whose limit would still be exceeded; "" if the plan suffices.
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
    """The ccaches that may be removed, in the order of their removal; `now`: seconds since the epoch."""
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
    """The service tickets that may be removed, in the order of issue, except that with the UUID `spared`."""
    credentials = ccache.credentials
    for uuid in credentials.service_tickets:
        credential = credentials.get(uuid)
        if uuid != spared and credential is not None:
            yield Ticket(uuid, credential.size)


def is_needed(quotas: Quotas, wanted: Wanted) -> bool:
    """Whether anything has to be removed."""
    for limit, amount in zip(quotas, wanted, strict=True):  # noqa: SIM110 - any() takes twice the time
        if 0 < limit < amount:
            return True
    return False


def make_plan(quotas: Quotas, wanted: Wanted, ccaches: Iterable[CCache], tickets: Iterable[Ticket]) -> Plan:
    """Plan the removals among those that are allowed, which are given in their order."""
    over = _Excess(quotas, wanted)
    to_be_freed = iter(tickets)
    tickets_going: list[bytes] = []
    ccaches_going: list[tuple[CCache, str]] = []
    reason = over.first_of(*_OF_CCACHE) or over.first_of(*_OF_UID)
    # Only tickets help against the limits of a ccache. Ccaches need not free the same bytes again.
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
    """The amounts by which the limits would be exceeded, by option."""

    def __init__(self, quotas: Quotas, wanted: Wanted) -> None:
        limits = zip(Quotas._fields, quotas, wanted, strict=True)
        self._by = {option: amount - limit for option, limit, amount in limits if limit}

    def first_of(self, *options: str) -> str:
        """Return the first of the options whose limit would be exceeded; "" if there is none."""
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


class Room:
    """The quotas of one UID, and what its ccaches use of them together.

    `size` is in bytes; `credentials` is their number.
    """

    def __init__(self, quotas: Quotas, ccache_count: CCacheCount) -> None:
        self.quotas = quotas
        self.ccache_count = ccache_count
        self.size = 0
        self.credentials = 0

    def is_enough(self, wanted: Wanted) -> bool:
        """Whether there may be what is wanted, and nothing has to go."""
        return not is_needed(self.quotas, wanted)

    def count_in(self, ccache: CCache) -> None:
        self.size += ccache.size
        self.credentials += len(ccache.credentials)

    def count_out(self, ccache: CCache) -> None:
        self.size -= ccache.size
        self.credentials -= len(ccache.credentials)

    def wanted_for_contents(
        self, overwritten: CCache | None, size: int, credentials: int, ccaches: int, *, is_moved: bool
    ) -> Wanted:
        """The usage after a ccache gets contents of this size and number of credentials.

        `ccaches`: how many the UID has. One that is moved from another UID makes no more ccaches in all.
        """
        wanted = Wanted()
        if overwritten is None:
            total = self.ccache_count.total
            wanted = wanted._replace(
                max_ccaches=0 if total is None or is_moved else total + 1,
                max_uid_ccaches=ccaches + 1,
            )
        more_bytes = size if overwritten is None else size - overwritten.size
        if more_bytes > 0:
            wanted = wanted._replace(max_ccache_size=size, max_uid_size=self.size + more_bytes)
        more = credentials if overwritten is None else credentials - len(overwritten.credentials)
        if more > 0:
            wanted = wanted._replace(
                max_ccache_credentials=credentials, max_uid_credentials=self.credentials + more
            )
        return wanted

    def wanted_for_credential(
        self, ccache: CCache, credential: Credential, replaced: Credential | None
    ) -> Wanted:
        """The usage after the ccache gets the credential, in place of `replaced` if there is one."""
        more_bytes = credential.size - (0 if replaced is None else replaced.size)
        # A change that makes nothing larger is always allowed.
        if more_bytes <= 0 and replaced is not None:
            return Wanted()
        added = int(replaced is None)
        return Wanted(
            max_ccache_size=ccache.size + more_bytes,
            max_uid_size=self.size + more_bytes,
            max_ccache_credentials=added and len(ccache.credentials) + 1,
            max_uid_credentials=added and self.credentials + 1,
        )

    def plan(
        self,
        wanted: Wanted,
        name: bytes,
        written: CCache | None,
        others: Iterable[CCache],
        now: float,
        tickets: Iterable[Ticket] = (),
    ) -> Plan:
        """Plan what has to be removed so that there may be what is wanted; raises EDQUOT.

        `written`: the ccache of this `name`, if there is one; `others`: all others of the UID; `now` as in
        removable_ccaches; `tickets`: the service tickets that may be removed, in their order.
        """
        quotas = self.quotas.at_least(
            0 if written is None else written.size,
            self.size,
            0 if written is None else len(written.credentials),
            self.credentials,
        )
        plan = make_plan(quotas, wanted, removable_ccaches(others, now), tickets)
        if plan.lacking:
            full = {
                "max_ccaches": "all users together",
                "max_ccache_size": f"ccache KCM:{escape(name)}",
                "max_ccache_credentials": f"ccache KCM:{escape(name)}",
            }.get(plan.lacking, f"the owner of KCM:{escape(name)}")
            excess = quota_excess(
                plan.lacking, getattr(wanted, plan.lacking), getattr(self.quotas, plan.lacking)
            )
            raise KcmError(errno.EDQUOT, f"{plan.lacking} reached by {full}: {excess}")
        return plan
