"""list and show: the ccaches of everyone, and what is in one of them."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import msgspec

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.expiry import is_ticket
from pykcm.control.calls import Call
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.records import Uid, principal_text
from pykcm.peer.identity import ROOT
from pykcm.peer.names import collection_of
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import is_tgs
from pykcm.server.defaults import other_uid_chosen, unconstrained_default


class ListArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`uid`: of this one alone; `expired`: only those whose tickets have all expired."""

    uid: Uid | None = None
    expired: bool = False


async def list_ccaches(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Every ccache, by UID and within it as klist has them; after those of each UID how much it uses."""
    wanted: ListArguments = call.arguments
    administration = call.administration
    uids = await administration.store.uids() if wanted.uid is None else [wanted.uid]
    ccaches = size = users = 0
    for uid in uids:
        rows_of = partial(_rows, call=call, wanted=wanted, gone=await _gone_default(call, uid))
        rows, use = await call.read(uid, rows_of)
        if not rows:
            continue
        users += 1
        ccaches += len(rows)
        size += sum(row["size"] for row in rows)
        for row in rows:
            yield {"ccache": row}
        yield {"user": use}
    call.summary = {"users": users, "ccaches": ccaches, "size": size}


async def _gone_default(call: Call, uid: int) -> bytes | None:
    """The name that root chose of another UID's ccache, if there is no such ccache."""
    if uid != ROOT:
        return None
    read = call.read
    other, name = await read(uid, lambda collection: (other_uid_chosen(collection), collection.default_name))
    if other is None:
        return None
    return None if await read(other, lambda collection: collection.has(name)) else name


def _rows(
    collection: Collection, call: Call, wanted: ListArguments, gone: bytes | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    current = unconstrained_default(collection, gone)
    seen = [ccache for ccache in collection if call.sees(ccache.label)]
    damaged = [
        _damaged(collection, name, uuid, current)
        for name, uuid in collection.unavailable.items()
        if call.sees(collection.label_of(name))
    ]
    rows = [
        _row(collection, ccache, current)
        for ccache in seen
        if not wanted.expired or ccache.has_expired(collection.removal_time)
    ]
    if not wanted.expired:
        rows += damaged
    config = call.administration.config
    use = {
        "uid": collection.uid,
        "ccaches": len(seen) + len(damaged),
        "max_ccaches": config.max_uid_ccaches,
        "size": sum(ccache.size for ccache in seen),
        "max_size": config.max_uid_size * 1024,
    }
    return rows, use


def _row(collection: Collection, ccache: CCache, current: bytes) -> dict[str, Any]:
    tgt = tgt_of(ccache)
    times = None if tgt is None else tgt.times
    return {
        "uid": collection.uid,
        "name": ccache.name,
        "uuid": ccache.uuid,
        "principal": principal_text(ccache.principal),
        "default": collection.is_default(ccache.name),
        "current_default": ccache.name == current,
        "tickets": sum(map(is_ticket, ccache.credentials)),
        "size": ccache.size,
        "tgt_expires": None if times is None else _at(times.endtime, ccache),
        "renew_till": None if times is None else _at(times.renew_till, ccache),
        "label": ccache.label,
        # A renewed ticket keeps its authtime and begins to be valid when it is issued.
        "last_renewal": None
        if times is None or times.starttime <= times.authtime
        else _at(times.starttime, ccache),
    }


def _damaged(collection: Collection, name: bytes, uuid: bytes, current: bytes) -> dict[str, Any]:
    """One whose secrets cannot be read: what is known of it."""
    unknown = ("principal", "tgt_expires", "renew_till", "last_renewal")
    return {
        "uid": collection.uid,
        "name": name,
        "uuid": uuid,
        "default": collection.is_default(name),
        "current_default": name == current,
        "tickets": 0,
        "size": 0,
        "label": collection.label_of(name) or None,
        **dict.fromkeys(unknown),
    }


def _at(time: int, ccache: CCache) -> int | None:
    """A time of the KDC's clock by this machine's, in seconds since the epoch; None where it is not set.

    The KDC offset counts in either direction, as clients reckon. The ccache's own expiry takes the later of
    two times, because a removal cannot be undone.
    """
    return time - ccache.kdc_offset if time else None


def tgt_of(ccache: CCache) -> Credential | None:
    """The TGT of the principal's own realm, the latest where there are several; else one of another realm."""
    tgts = [each for each in ccache.credentials if is_tgs(each.equality.server) and is_ticket(each)]
    realm = ccache.principal.realm
    return max(tgts, key=lambda each: (each.equality.server[1][1:] == (realm,), each.endtime), default=None)


class ShowArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name` is the ccache's; with `payload` the credentials come with their bytes, keys and all."""

    name: bytes
    payload: bool = False


async def show_ccache(call: Call) -> AsyncIterator[dict[str, Any]]:
    """The ccache itself, then each of its credentials in stored order."""
    wanted: ShowArguments = call.arguments
    uid = collection_of(wanted.name)
    gone = await _gone_default(call, uid)
    details = await call.read(uid, lambda collection: list(_details(collection, call, wanted, gone)))
    for each in details:
        yield each


def _details(
    collection: Collection, call: Call, wanted: ShowArguments, gone: bytes | None
) -> Iterator[dict[str, Any]]:
    ccache = visible(collection, wanted.name, call)
    row = _row(collection, ccache, unconstrained_default(collection, gone))
    yield {"ccache": row | {"kdc_offset": ccache.kdc_offset, **_principal(ccache)}}
    for uuid, credential in ccache.credentials.items():
        details: dict[str, Any] = {
            "uuid": uuid,
            "client": principal_text(credential.client),
            "server": principal_text(credential.server),
            "configuration": not is_ticket(credential),
            "enctype": credential.enctype,
            "flags": credential.flags,
            "times": list(credential.times),
            "size": len(credential.blob),
        }
        if wanted.payload:
            details["payload"] = credential.blob
        yield {"credential": details}


def _principal(ccache: CCache) -> dict[str, Any]:
    principal = ccache.principal
    return {
        "principal_type": principal.name_type,
        "realm": principal.realm,
        "components": list(principal.components),
    }


def visible(collection: Collection, name: bytes, call: Call) -> CCache:
    """The ccache of this name; raises ControlError where there is none for whoever asks."""
    if not collection.has(name) or not call.sees(collection.label_of(name)):
        raise ControlError(ErrorCode.NOT_FOUND, "there is no such ccache")
    ccache = collection.get(name)
    assert ccache is not None
    return ccache
