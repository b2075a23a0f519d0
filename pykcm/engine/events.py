"""Events for watching clients: changes of ccaches, made from committed changes, and refusals."""

import errno
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import msgspec

from pykcm.ccaches.changes import (
    EXPIRED,
    CCacheCreated,
    CCacheMoved,
    CCacheRemoved,
    CCacheReplaced,
    Change,
    CredentialStored,
    DefaultChanged,
    removals_in,
)
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.expiry import is_ticket
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.principal import Principal

# These codes also answer a request for another's ccache, as if it did not exist.
_DISGUISES = {Code.FCC_NOFILE, Code.CC_END, Code.CC_BADNAME}


class Kind(StrEnum):
    """Kinds of events."""

    CREATED = "created"
    REPLACED = "replaced"
    STORED = "stored"
    DESTROYED = "destroyed"
    EXPIRED = "expired"
    EVICTED = "evicted"
    DEFAULT = "default"
    REFUSED = "refused"


class Event(msgspec.Struct, frozen=True):
    """One thing that has happened, `time` seconds since the epoch.

    `uid`: the collection's; for a refusal, the client's. `label` decides who may see the event. `reason`: the
    option that required an eviction, or for a refusal "quota", "permission" or "connection"; `detail` says
    more. `tickets`: the number of evicted service tickets, if the ccache itself was kept. `server`: the
    server of the stored ticket. `is_renewed`: a TGT replaced one that ends earlier.
    """

    time: float
    kind: Kind
    uid: int
    label: str | None
    ccache: bytes = b""
    principal: Principal | None = None
    reason: str = ""
    detail: str = ""
    tickets: int | None = None
    server: Principal | None = None
    is_renewed: bool = False


class Changed(msgspec.Struct, frozen=True):
    """A collection, and the changes that one request made in it."""

    collection: Collection
    changes: Sequence[Change]


class Watch:
    """Reports events. `report` is called with each event when it is durable; it must not wait.

    `default_of` returns the name of a collection's default, as peers of its UID get it. `is_client`: whether
    it is a client's, and not a part of the daemon.
    """

    is_client = True

    def __init__(self, report: Callable[[Event], None], default_of: Callable[[Collection], bytes]) -> None:
        self._report = report
        self._default_of = default_of

    def before(self, collections: Iterable[Collection]) -> dict[int, bytes]:
        """The defaults of collections that a request may change, by UID."""
        return {collection.uid: self._default_of(collection) for collection in collections}

    def events(self, changed: Iterable[Changed], defaults_before: dict[int, bytes]) -> list[Event]:
        """Return what has happened to these collections, to be reported once it is durable.

        Other requests may change a ccache before that: an event shows it as the request has left it.
        """
        now = time.time()
        events: list[Event] = []
        for each in changed:
            collection = each.collection
            events += events_of(now, collection, each.changes)
            default = self._default_of(collection)
            if default != defaults_before[collection.uid]:
                events.append(_default_event(now, collection, None, default))
        return events

    def committed(self, events: Iterable[Event]) -> None:
        """Report events of changes that are durable now."""
        now = time.time()
        for event in events:
            self._report(msgspec.structs.replace(event, time=now))

    def refused(self, uid: int, label: str | None, name: bytes, error: KcmError) -> None:
        """Report a request that was refused for a quota or a permission; other errors are not reported."""
        if error.code == errno.EDQUOT:
            reason = "quota"
        elif error.code == Code.FCC_PERM or (error.code in _DISGUISES and error.reason):
            reason = "permission"
        else:
            return
        self._report(Event(time.time(), Kind.REFUSED, uid, label, name, reason=reason, detail=error.reason))

    def connection_refused(self, uid: int, label: str | None, detail: str) -> None:
        self._report(Event(time.time(), Kind.REFUSED, uid, label, reason="connection", detail=detail))


def events_of(now: float, collection: Collection, changes: Sequence[Change]) -> Iterable[Event]:
    """Yield the events of one request's changes in order, except a move of the shared default."""
    uid = collection.uid
    for change in changes:
        match change:
            case CCacheCreated(ccache):
                yield Event(now, Kind.CREATED, uid, ccache.label, ccache.name, ccache.principal)
            case CCacheReplaced(ccache):
                yield Event(
                    *(now, Kind.REPLACED, uid, ccache.label, ccache.name, ccache.principal),
                    is_renewed=change.renews,
                )
            case CredentialStored(ccache, _, credential) if is_ticket(credential):
                yield Event(
                    *(now, Kind.STORED, uid, ccache.label, ccache.name, ccache.principal),
                    server=credential.server,
                    is_renewed=change.renews,
                )
            case CCacheMoved(ccache):
                yield Event(now, Kind.DESTROYED, uid, ccache.label, ccache.name, ccache.principal)
            case CCacheRemoved():
                yield _removal(now, uid, change)
    for removal in removals_in(changes):
        if removal.service_tickets is not None:
            yield Event(
                *(now, Kind.EVICTED, uid, collection.label_of(removal.ccache), removal.ccache),
                reason=removal.reason,
                tickets=removal.service_tickets,
            )
    yield from _defaults_by_range(now, collection, changes)


def _removal(now: float, uid: int, change: CCacheRemoved) -> Event:
    kind = Kind.EVICTED if change.reason else Kind.DESTROYED
    if change.reason == EXPIRED:
        kind = Kind.EXPIRED
    principal = None if change.ccache is None else change.ccache.principal
    return Event(now, kind, uid, change.label, change.name, principal, change.reason)


def _defaults_by_range(now: float, collection: Collection, changes: Sequence[Change]) -> Iterable[Event]:
    first = next((change for change in changes if isinstance(change, DefaultChanged)), None)
    if first is None:
        return
    before = dict(first.before.by_range)
    for range_, name in collection.defaults.by_range:
        if before.get(range_) != name:
            # A ccache that peers of this range create will have a label like this one.
            yield _default_event(now, collection, f"any:any:any:{range_}", name)


def _default_event(now: float, collection: Collection, label: str | None, name: bytes) -> Event:
    if collection.has(name):
        label = collection.label_of(name)
    return Event(now, Kind.DEFAULT, collection.uid, label, name)
