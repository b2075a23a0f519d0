"""One attempt to renew a TGT: what the client gets, what it hands back, and the change of the ccache."""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from pykcm.ccaches.renewal import Schedule, is_renewal_off
from pykcm.engine.engine import Collections
from pykcm.engine.renewal_queue import Tgt
from pykcm.logs import LimitedLog, User
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

_FAILURES = LimitedLog(log, "TGTs that were not renewed", 10)
# About one realm: while its KDC is away, all its TGTs fail.
_OF_REALM = LimitedLog(log, "TGTs that were not renewed", 3)
_RENEWED = LimitedLog(log, "renewed TGTs", 30)

ID_SIZE = 16

# Reasons of failures without an answer from a KDC, and with one. Others tell nothing about the KDC.
_NO_ANSWER = frozenset({"unreachable", "timeout"})
_ANSWER = frozenset({"clock", "locked", "revoked", "expired", "kdc"})

# Reasons that concern all TGTs of a realm.
_ABOUT_REALM = _NO_ANSWER | {"clock"}

# In seconds: how long an attempt may take in addition to the KDC's time.
_PATIENCE = 60.0

# In seconds: the pause after a first failure, and the longest one.
PAUSE = 1.0
_LONGEST_PAUSE = 3600.0
# The pause is at most this part of the time until the TGT ends.
_PART_OF_REST = 0.25


class Replacement(Enum):
    """The outcome for a new TGT: stored, the ccache has changed, or it has an equal TGT elsewhere."""

    DONE = "renewed"
    CHANGED = "changed"
    HAS_EQUAL = "refused"


class BusyError(Exception):
    """Another client renews TGTs already."""


class Settings(NamedTuple):
    """Options, as the configuration has them. `patience`: seconds that an attempt may take."""

    schedule: Schedule = Schedule()
    most: int = 32
    most_of_realm: int = 16
    patience: float = 6.0 + _PATIENCE


def settings_of(
    renew_at: float, interval: float, kdc_timeout: float, most: int, most_of_realm: int
) -> Settings:
    """The settings of these options of the configuration."""
    return Settings(Schedule(renew_at, interval), most, most_of_realm, kdc_timeout + _PATIENCE)


class Offer(NamedTuple):
    """One attempt: what a client needs for it. Times are by this machine's clock."""

    id: bytes
    uid: int
    ccache: bytes
    credential: Credential
    realm: bytes
    kdc_offset: int
    due: float
    end: int
    renew_until: int

    @classmethod
    def of(cls, tgt: Tgt, found: "Found", now: float) -> "Offer":
        """A new attempt."""
        offset = found.kdc_offset
        return cls(
            *(os.urandom(ID_SIZE), tgt.uid, found.name, found.credential, tgt.realm, offset),
            *(now if tgt.due is None else tgt.due, tgt.end, found.credential.times.renew_till - offset),
        )


class Failure(NamedTuple):
    """Why an attempt failed; not `again`: this TGT can never be renewed."""

    reason: str
    message: str = ""
    code: int = 0
    again: bool = True


def answers_of(reason: str) -> bool | None:
    """Whether a KDC answered an attempt that failed for this reason; None: that is not known."""
    if reason in _NO_ANSWER:
        return False
    return True if reason in _ANSWER else None


def next_attempt(now: float, end: float, failures: int, jitter: float) -> float | None:
    """When a TGT that ends at `end` is tried again after so many failures; None: it ends before."""
    pause = min(PAUSE * 2 ** min(failures - 1, 20), _LONGEST_PAUSE, _PART_OF_REST * (end - now))
    at = now + max(pause, PAUSE) * (1 + 0.1 * jitter)
    return at if at < end else None


class HandedBack(NamedTuple):
    """The outcome of an attempt that was handed back, and the time of the next attempt; None: never."""

    result: str
    next_attempt: float | None = None


class Found(NamedTuple):
    """The TGT of an attempt, as its ccache holds it."""

    name: bytes
    label: str | None
    credential: Credential
    kdc_offset: int
    principal: Principal


@dataclass(eq=False)
class Client:
    """The client, and its offers that it has not taken yet.

    `is_silent`: an attempt has ended without a result, and no result has come since.
    """

    may_renew: Callable[[str | None], bool]
    is_silent: bool = False
    offers: deque[Offer] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)


@dataclass(eq=False)
class Attempt:
    """An attempt that a client makes."""

    client: Client
    tgt: Tgt
    offer: Offer
    principal: Principal
    timer: asyncio.TimerHandle


def log_renewal(attempt: Attempt, new: Credential) -> None:
    tgt, name = attempt.tgt, escape(attempt.offer.ccache)
    _RENEWED.write(
        logging.INFO,
        tgt.uid,
        "%s: KCM:%s: TGT of %s renewed until %s",
        *(User(tgt.uid), name, attempt.principal, _time_text(new.endtime - attempt.offer.kdc_offset)),
        fields={"KCM_UID": tgt.uid, "KCM_CCACHE": name},
    )


def log_failure(attempt: Attempt, failure: Failure, now: float) -> None:
    tgt, name = attempt.tgt, escape(attempt.offer.ccache)
    code = f" (code {failure.code})" if failure.code else ""
    then = "no further attempt"
    if tgt.due is not None:
        then = f"next attempt in {max(1, round(tgt.due - now))} s"
    if not _FAILURES.counts(logging.WARNING, tgt.uid):
        return
    if failure.reason in _ABOUT_REALM and not _OF_REALM.counts(logging.WARNING, f"realm {escape(tgt.realm)}"):
        return
    log.warning(
        "%s: KCM:%s: TGT of %s not renewed: %s: %s%s; it ends at %s; %s",
        *(User(tgt.uid), name, attempt.principal, failure.reason, tgt.last_message, code),
        *(_time_text(tgt.end), then),
        extra={"KCM_UID": tgt.uid, "KCM_CCACHE": name, "KCM_REASON": failure.reason},
    )


def _time_text(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(0, seconds)))


def find_tgt(tgt: Tgt, collections: Collections) -> Found | None:
    ccache = collections[tgt.uid].by_uuid(tgt.ccache)
    if ccache is None or is_renewal_off(ccache):
        return None
    credential = ccache.credentials.get(tgt.uuid)
    if credential is None or hash(credential.blob) != tgt.digest:
        return None
    return Found(ccache.name, ccache.label, credential, ccache.kdc_offset, ccache.principal)


def replace_tgt(
    tgt: Tgt, offer: Offer, new: Credential, may_renew: Callable[[str | None], bool], collections: Collections
) -> Replacement:
    """Replace the TGT, if its ccache still holds exactly the one that was offered."""
    collection = collections[tgt.uid]
    ccache = collection.by_uuid(tgt.ccache)
    if ccache is None or is_renewal_off(ccache) or not may_renew(ccache.label):
        return Replacement.CHANGED
    credential = ccache.credentials.get(tgt.uuid)
    if credential is None or credential.blob != offer.credential.blob:
        return Replacement.CHANGED
    if ccache.credentials.uuid_of_equal(new) not in {None, tgt.uuid}:
        return Replacement.HAS_EQUAL
    collection.renew(ccache, tgt.uuid, new)
    return Replacement.DONE
