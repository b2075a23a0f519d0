"""What happens to ccaches, as whoever watches is told of it: found by comparing before and after a change."""

import errno
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.changes import Removal
from pykcm.ccaches.collection import EXPIRED, Collection
from pykcm.peer.identity import Peer
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.principal import Principal
from pykcm.server.defaults import unconstrained_default

_DISGUISES = {Code.FCC_NOFILE, Code.CC_END, Code.CC_BADNAME}


class Kind(StrEnum):
    """What has happened."""

    CREATED = "created"
    REPLACED = "replaced"
    DESTROYED = "destroyed"
    EXPIRED = "expired"
    EVICTED = "evicted"
    DEFAULT = "default"
    REFUSED = "refused"


class Event(NamedTuple):
    """One thing that has happened, `time` seconds since the epoch.

    `uid` is whose collection it is, and for what is refused who has asked.
    `label` decides who may be told. `reason` is the option that demanded an eviction, or why something was
    refused: "quota", "permission" or "connection"; `detail` says more of it. `tickets`: it was not the ccache
    that was evicted, but so many of its service tickets.
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


class _Before(NamedTuple):
    """A collection as it was; `unavailable` has names with their labels.

    `default` is the one that peers who share it are given, `own_defaults` are the chosen ones by range.
    """

    collection: Collection
    ccaches: dict[bytes, CCache]
    unavailable: dict[bytes, str | None]
    default: bytes
    own_defaults: dict[str, bytes]


class Watch:
    """Tells of events; `tell` is called with each, when it is durable, and must neither wait nor raise."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell

    @staticmethod
    def before(collections: Iterable[Collection]) -> list[_Before]:
        """Take note of collections that are about to change."""
        # A move within one collection has it twice.
        return [
            _Before(
                collection,
                {ccache.name: ccache for ccache in collection},
                {name: collection.label_of(name) for name in collection.unavailable},
                unconstrained_default(collection),
                dict(collection.defaults.by_range),
            )
            for collection in dict.fromkeys(collections)
        ]

    def changed(self, before: Iterable[_Before], removals: Mapping[int, Sequence[Removal]]) -> None:
        """Tell what has become of them; `removals`, by UID, is what went without anybody's asking."""
        now = time.time()
        for was in before:
            for event in _differences(now, was, removals.get(was.collection.uid, ())):
                self._tell(event)

    def refused(self, peer: Peer, name: bytes, error: KcmError) -> None:
        """Tell of a request that was refused; other errors are nobody's business."""
        if error.code == errno.EDQUOT:
            reason = "quota"
        # What is another's is answered as if it were not there, and only the reason tells.
        elif error.code == Code.FCC_PERM or (error.code in _DISGUISES and error.reason):
            reason = "permission"
        else:
            return
        self._tell(
            Event(time.time(), Kind.REFUSED, peer.uid, peer.label, name, reason=reason, detail=error.reason)
        )

    def connection_refused(self, uid: int, label: str | None, why: str) -> None:
        self._tell(Event(time.time(), Kind.REFUSED, uid, label, reason="connection", detail=why))


def _differences(now: float, was: _Before, removals: Sequence[Removal]) -> Iterable[Event]:
    collection = was.collection
    uid = collection.uid
    reasons = {removal.ccache: removal.reason for removal in removals if removal.service_tickets is None}
    for name, ccache in was.ccaches.items():
        if not collection.has(name):
            reason = reasons.get(name, "")
            kind = Kind.DESTROYED if not reason else Kind.EXPIRED if reason == EXPIRED else Kind.EVICTED
            yield Event(now, kind, uid, ccache.label, name, ccache.principal, reason)
    for name, label in was.unavailable.items():
        if name not in collection.unavailable:
            yield Event(now, Kind.DESTROYED, uid, label, name)
    for ccache in collection:
        before = was.ccaches.get(ccache.name)
        # What is written anew is another object; what is merely changed is the same one.
        if ccache is not before:
            kind = Kind.CREATED if before is None else Kind.REPLACED
            yield Event(now, kind, uid, ccache.label, ccache.name, ccache.principal)
    for removal in removals:
        if removal.service_tickets is not None:
            label = collection.label_of(removal.ccache)
            yield Event(
                now,
                Kind.EVICTED,
                uid,
                label,
                removal.ccache,
                reason=removal.reason,
                tickets=removal.service_tickets,
            )
    yield from _defaults(now, was)


def _defaults(now: float, was: _Before) -> Iterable[Event]:
    collection = was.collection
    moved: list[tuple[str | None, bytes]] = []
    default = unconstrained_default(collection)
    if was.default != default:
        moved.append((None, default))
    for range_, name in collection.defaults.by_range:
        if was.own_defaults.get(range_) != name:
            # As if a ccache were already there that the peers of this range have created.
            moved.append((f"any:any:any:{range_}", name))
    for label, name in moved:
        there = collection.label_of(name) if collection.has(name) else label
        yield Event(now, Kind.DEFAULT, collection.uid, there, name)
