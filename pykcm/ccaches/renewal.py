"""The TGTs of a ccache that can be renewed, and when they are due.

A user who wants no renewal of a ccache puts a configuration entry of libkrb5 into it (see SETTING).
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.changes import (
    CCacheCreated,
    CCacheMoved,
    CCacheRemoved,
    CCacheReplaced,
    Change,
    CredentialRemoved,
    CredentialStored,
    KdcOffsetChanged,
    LabelChanged,
)
from pykcm.ccaches.expiry import is_ticket
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Identity, Principal, is_tgs, name_of

# The name of the configuration entry, as libkrb5 (krb5_cc_set_config) and pykcmctl write it.
SETTING = Principal(0, b"X-CACHECONF:", (b"krb5_ccache_conf_data", b"pykcm_renewal"))
_SETTING_NAME = name_of(SETTING.identity)
_OFF = frozenset({b"no", b"off", b"false", b"0"})

# Ticket flags of RFC 4120.
_RENEWABLE = 0x00800000
_INVALID = 0x01000000

# In bytes: larger TGTs are not renewed. Those of Active Directory have about 64 KiB at most.
_LARGEST = 512 * 1024

# TGTs of one ccache that are renewed: the one of its own realm, and some of other realms.
_MOST_OF_CCACHE = 8

# So much of a ticket's life is spread over: many people log in at the same time.
_JITTER = 0.1

# A ticket of which more of its life has passed is renewed at once, and waits for no interval.
_LATEST = 0.9

# Why a TGT that is the right one is of no use.
ENDS_NO_LATER = "it does not end later"

# In bytes: a new TGT may be so much larger than the one that it replaces.
_GROWTH = 16 * 1024


class Schedule(msgspec.Struct, frozen=True):
    """Options: the share of a TGT's life after which it is due, and the interval of renewals; 0: none."""

    renew_at: float = 0.5
    interval: float = 0.0


class RenewableTgt(msgspec.Struct, frozen=True):
    """A TGT that can be renewed. Times are in seconds since the epoch, by this machine's clock.

    `uuid`: the credential's. `realm`: whose KDC renews it.
    """

    uuid: bytes
    credential: Credential
    realm: bytes
    begin: int
    end: int
    renew_until: int

    def due(self, schedule: Schedule, jitter: float) -> float:
        """When it is due; `jitter`: at least 0 and less than 1."""
        life = self.end - self.begin
        share = min(schedule.renew_at + jitter * _JITTER, (schedule.renew_at + 1) / 2)
        at = self.begin + life * share
        if schedule.interval:
            rounded = math.ceil(at / schedule.interval) * schedule.interval
            if rounded <= self.begin + life * max(_LATEST, schedule.renew_at):
                return rounded
        return at


def renewable_tgts(ccache: CCache) -> list[RenewableTgt]:
    """The TGTs of a ccache that can be renewed, whether they have expired or not."""
    if is_renewal_off(ccache):
        return []
    found = list(_renewable(ccache))
    if len(found) > _MOST_OF_CCACHE:
        own = ccache.principal.realm
        found.sort(key=lambda each: (each.realm == own, each.end), reverse=True)
    return found[:_MOST_OF_CCACHE]


def _renewable(ccache: CCache) -> Iterator[RenewableTgt]:
    offset = ccache.kdc_offset
    for uuid, credential in ccache.credentials.tgts():
        flags = credential.flags
        times = credential.times
        begin = times.starttime or times.authtime
        if (
            flags & _RENEWABLE
            and not flags & _INVALID
            and not credential.is_skey
            and begin < times.endtime < times.renew_till
            and len(credential.blob) <= _LARGEST
        ):
            yield RenewableTgt(
                *(uuid, credential, credential.server.realm),
                *(begin - offset, times.endtime - offset, times.renew_till - offset),
            )


def is_renewal_off(ccache: CCache) -> bool:
    """Whether the ccache's user wants no renewal of it."""
    return any(map(_is_off, ccache.credentials.of_server(_SETTING_NAME)))


def _is_off(credential: Credential) -> bool:
    return credential.equality.server == SETTING.identity and credential.ticket.strip().lower() in _OFF


def with_setting_of(
    present: CCache | None, principal: Principal, credentials: Sequence[Credential]
) -> Sequence[Credential]:
    """Add the entry of a user who wants no renewal to new contents of the ccache, as a kinit sends them.

    The user has said it about the ccache, and not about one TGT. It ends with the ccache, with another
    principal, or with an entry among the new contents.
    """
    if present is None or present.principal.identity != principal.identity:
        return credentials
    if any(each.equality.server == SETTING.identity for each in credentials):
        return credentials
    kept = next(filter(_is_off, present.credentials.of_server(_SETTING_NAME)), None)
    return credentials if kept is None else [*credentials, kept]


def _matters(server: Identity) -> bool:
    """Whether a credential for this server decides about renewals: a TGT, or the user's setting."""
    return is_tgs(server) or server == SETTING.identity


def ccaches_with_other_tgts(changes: Iterable[Change]) -> dict[bytes, CCache | None]:
    """The ccaches whose TGTs may have changed, by UUID; None: there is none any more."""
    touched: dict[bytes, CCache | None] = {}
    for change in changes:
        match change:
            case CCacheCreated(ccache) | CCacheReplaced(ccache) | KdcOffsetChanged(ccache):
                touched[ccache.uuid] = ccache
            case LabelChanged(ccache):
                touched[ccache.uuid] = ccache
            case CredentialStored(ccache, _, credential) | CredentialRemoved(ccache, _, credential):
                if _matters(credential.equality.server):
                    touched[ccache.uuid] = ccache
            case CCacheRemoved(uuid):
                touched[uuid] = None
            case CCacheMoved(ccache):
                touched[ccache.uuid] = None
    return touched


def why_no_renewal(old: Credential, new: Credential) -> str:
    """Why `new` is not the renewed `old`; "": it is."""
    if new.equality.client != old.equality.client:
        return "it is another client's"
    if new.equality.server != old.equality.server:
        return "it is for another server"
    if new.is_skey or not is_ticket(new) or new.flags & _INVALID or not new.ticket:
        return "it is no valid ticket"
    if new.endtime <= old.endtime:
        return ENDS_NO_LATER
    if len(new.blob) > min(len(old.blob) + _GROWTH, _LARGEST):
        return f"it has {len(new.blob)} bytes, and the old one {len(old.blob)}"
    return ""
