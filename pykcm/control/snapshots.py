"""Snapshots of ccaches: long answers are made from them, item by item, when the UID's queue is free again.

A snapshot shares the credentials, which never change. Taking it costs a few calls for each ccache, and none
for each credential.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.control.calls import Call
from pykcm.peer.identity import ROOT
from pykcm.peer.names import owner_of
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal


class CCacheSnapshot(NamedTuple):
    """A ccache as it was at one moment; `credentials` are pairs of UUID and credential, in stored order.

    `is_default`: chosen as the shared default or as that of an SELinux range. `is_current_default`:
    GET_DEFAULT_CACHE returns it to a peer from which no ccache is hidden. `default_of`: the SELinux ranges
    whose default it is. `size` counts as quotas do.
    """

    uid: int
    name: bytes
    uuid: bytes
    principal: Principal
    label: str | None
    kdc_offset: int
    size: int
    has_expired: bool
    is_default: bool
    is_shared_default: bool
    is_current_default: bool
    default_of: list[str]
    credentials: Sequence[tuple[bytes, Credential]]


class DamagedCCache(NamedTuple):
    """A ccache whose secrets cannot be read, as far as it is known."""

    uid: int
    name: bytes
    uuid: bytes
    label: str | None
    is_default: bool
    is_current_default: bool


class CollectionSnapshot(NamedTuple):
    """The ccaches of one UID that the peer may read, in stored order.

    `missing_default`: the name of the shared default, if its user chose or destroyed it and no ccache has it.
    """

    uid: int
    ccaches: list[CCacheSnapshot]
    damaged: list[DamagedCCache]
    missing_default: bytes | None


def other_uid_chosen(collection: Collection) -> int | None:
    """The other UID whose ccache is this UID's shared default; only root may choose one."""
    if collection.uid != ROOT:
        return None
    return owner_of(collection.default_name) or None


def unconstrained_default(collection: Collection, gone: bytes | None = None) -> bytes:
    """Return the name that GET_DEFAULT_CACHE gives to a peer from which no ccache is hidden.

    Another UID's ccache that root chose counts as existing, unless it is `gone`.
    """
    chosen = collection.default_name
    if other_uid_chosen(collection) is None:
        return collection.shared_default()
    return collection.shared_default(collection.own_name) if chosen == gone else chosen


def take_snapshot(collection: Collection, call: Call, gone: bytes | None = None) -> CollectionSnapshot:
    """Return the UID's ccaches as they are now; `gone`: see unconstrained_default()."""
    current = unconstrained_default(collection, gone)
    ranges = _default_ranges(collection)
    may_read: dict[str | None, bool] = {}

    def is_readable(label: str | None) -> bool:
        if label not in may_read:
            may_read[label] = call.sees(label)
        return may_read[label]

    return CollectionSnapshot(
        collection.uid,
        [_snapshot(collection, each, current, ranges) for each in collection if is_readable(each.label)],
        [
            DamagedCCache(
                collection.uid,
                name,
                uuid,
                collection.label_of(name) or None,
                name == collection.default_name or name in ranges,
                name == current,
            )
            for name, uuid in collection.unavailable.items()
            if is_readable(collection.label_of(name))
        ],
        _missing_default(collection, gone),
    )


def _missing_default(collection: Collection, gone: bytes | None) -> bytes | None:
    chosen, defaults = collection.default_name, collection.defaults
    is_chosen = defaults.shared is not None or None in defaults.destroyed
    is_missing = not collection.has(chosen) if other_uid_chosen(collection) is None else chosen == gone
    return chosen if is_chosen and is_missing else None


def snapshot_of(collection: Collection, ccache: CCache, gone: bytes | None) -> CCacheSnapshot:
    """Return one ccache as it is now; `gone`: see unconstrained_default()."""
    return _snapshot(collection, ccache, unconstrained_default(collection, gone), _default_ranges(collection))


def _default_ranges(collection: Collection) -> dict[bytes, list[str]]:
    """The SELinux ranges that have a default of their own, by its name."""
    ranges: dict[bytes, list[str]] = {}
    for range_, name in collection.defaults.by_range:
        ranges.setdefault(name, []).append(range_)
    return ranges


def _snapshot(
    collection: Collection, ccache: CCache, current: bytes, ranges: dict[bytes, list[str]]
) -> CCacheSnapshot:
    name = ccache.name
    is_shared_default = name == collection.default_name
    return CCacheSnapshot(
        collection.uid,
        name,
        ccache.uuid,
        ccache.principal,
        ccache.label,
        ccache.kdc_offset,
        ccache.size,
        ccache.has_expired(collection.removal_time),
        is_shared_default or name in ranges,
        is_shared_default,
        name == current,
        ranges.get(name, []),
        list(ccache.credentials.items()),
    )
