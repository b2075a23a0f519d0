"""Events of an ordinary user's ccaches, from the differences between two readings of the collection."""

import time
from collections.abc import Iterator
from typing import Any

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.expiry import is_ticket
from pykcm.cli.user_collection import connected, read_collection
from pykcm.control.listing import tgt_of
from pykcm.control.records import principal_text

# In seconds, between two readings.
_INTERVAL = 2.0


def watch_collection(path: str) -> Iterator[Any]:
    """Yield the items of the request watch, for ever; raises OSError, KcmError."""
    before = _read(path)
    yield {"watching": True}
    while True:
        # KCM has no events to wait for.
        time.sleep(_INTERVAL)
        after = _read(path)
        yield from differences(before, after)
        before = after


def _read(path: str) -> Collection:
    # A connection for each reading: an open one would count towards the user's limit.
    with connected(path) as kcm:
        return read_collection(kcm)


def differences(before: Collection, after: Collection) -> Iterator[dict[str, Any]]:
    """Yield an event for each difference. Changes between two readings that undo each other are not seen."""
    old = {ccache.uuid: ccache for ccache in before}
    new = {ccache.uuid: ccache for ccache in after}
    for uuid, ccache in old.items():
        if uuid not in new and uuid not in after.unavailable.values():
            kind = "expired" if ccache.has_expired(after.now) else "destroyed"
            yield _event(kind, ccache, after)
    for uuid, ccache in new.items():
        if uuid not in old:
            if uuid not in before.unavailable.values():
                yield _event("created", ccache, after)
        else:
            yield from _changes(old[uuid], ccache, after)
    default = after.shared_default()
    if default != before.shared_default() and after.has(default):
        yield _item("default", after) | {"ccache": default}


def _changes(old: CCache, new: CCache, collection: Collection) -> Iterator[dict[str, Any]]:
    had = {credential.blob for credential in old.credentials}
    added = [each for each in new.credentials if each.blob not in had]
    tgt, old_tgt = (tgt_of(each.principal, each.credentials) for each in (new, old))
    is_new_tgt = tgt is not None and tgt in added
    if old.principal != new.principal or is_new_tgt or (had and not len(new.credentials)):
        event = _event("replaced", new, collection)
        if tgt is not None and old_tgt is not None and old_tgt.endtime < tgt.endtime:
            event["renewed"] = True
        yield event
        return
    for each in added:
        if is_ticket(each):
            yield _event("stored", new, collection) | {"server": principal_text(each.server)}


def _event(kind: str, ccache: CCache, collection: Collection) -> dict[str, Any]:
    return _item(kind, collection) | {
        "ccache": ccache.name,
        "principal": principal_text(ccache.principal),
    }


def _item(kind: str, collection: Collection) -> dict[str, Any]:
    return {"time": time.time(), "event": kind, "uid": collection.uid}
