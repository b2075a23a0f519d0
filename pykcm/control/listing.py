"""The requests list and show: the ccaches of all UIDs, and the contents of one ccache."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.expiry import is_ticket
from pykcm.ccaches.quotas import NEAR_SHARE
from pykcm.config import Config
from pykcm.control.calls import Call
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.records import Uid, principal_text
from pykcm.control.snapshots import (
    CCacheSnapshot,
    CollectionSnapshot,
    DamagedCCache,
    other_uid_chosen,
    snapshot_of,
    take_snapshot,
)
from pykcm.peer.identity import ROOT
from pykcm.peer.names import collection_of
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal, is_tgs, name_of


class ListArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`uid`: only this UID's ccaches; `expired`: only ccaches whose tickets have all expired."""

    uid: Uid | None = None
    expired: bool = False


async def list_ccaches(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield every ccache, by UID and in klist's order, and after those of each UID its use of the quotas."""
    wanted: ListArguments = call.arguments
    administration = call.administration
    uids = await administration.store.uids() if wanted.uid is None else [wanted.uid]
    ccaches = size = users = 0
    all_ccaches: int | None = None
    for uid in uids:
        # Reading a cached collection does not yield to the event loop.
        await asyncio.sleep(0)
        gone = await _gone_default(call, uid)
        snapshot = await call.read(uid, partial(take_snapshot, call=call, gone=gone))
        if administration.config.max_ccaches:
            all_ccaches = await call.read(uid, lambda collection: collection.ccache_count.total)
        listed = [each for each in snapshot.ccaches if each.has_expired or not wanted.expired]
        damaged = [] if wanted.expired else snapshot.damaged
        if not listed and not damaged:
            continue
        users += 1
        ccaches += len(listed) + len(damaged)
        size += sum(each.size for each in listed)
        for ccache in listed:
            yield {"ccache": _row(ccache) | _renewal(call, ccache)}
        for each in damaged:
            yield {"ccache": _damaged_row(each)}
        yield {"user": _use(snapshot, administration.config)}
    call.summary = {"users": users, "ccaches": ccaches, "size": size}
    if all_ccaches is not None:
        call.summary |= {"all_ccaches": all_ccaches, "max_ccaches": administration.config.max_ccaches}


async def _gone_default(call: Call, uid: int) -> bytes | None:
    """Return the name of root's default if it is that of another UID's ccache that does not exist."""
    if uid != ROOT:
        return None
    read = call.read
    other, name = await read(uid, lambda collection: (other_uid_chosen(collection), collection.default_name))
    if other is None:
        return None
    return None if await read(other, lambda collection: collection.has(name)) else name


def _use(snapshot: CollectionSnapshot, config: Config) -> dict[str, Any]:
    """The UID's use of its quotas, as far as the peer may read it."""
    return {
        "uid": snapshot.uid,
        "ccaches": len(snapshot.ccaches) + len(snapshot.damaged),
        "max_ccaches": config.max_uid_ccaches,
        "size": sum(ccache.size for ccache in snapshot.ccaches),
        "max_size": config.max_uid_size * 1024,
        "credentials": sum(len(ccache.credentials) for ccache in snapshot.ccaches),
        "max_credentials": config.max_uid_credentials,
        "missing_default": snapshot.missing_default,
        "near_ccaches": [*_near_ccaches(snapshot, config)],
    }


def _near_ccaches(snapshot: CollectionSnapshot, config: Config) -> Iterator[dict[str, Any]]:
    """Yield the use of the ccaches that are near a quota of a single ccache."""
    most_bytes, most_credentials = config.max_ccache_size * 1024, config.max_ccache_credentials
    for ccache in snapshot.ccaches:
        number = len(ccache.credentials)
        if (most_bytes and ccache.size >= NEAR_SHARE * most_bytes) or (
            most_credentials and number >= NEAR_SHARE * most_credentials
        ):
            yield {
                "name": ccache.name,
                "size": ccache.size,
                "max_size": most_bytes,
                "credentials": number,
                "max_credentials": most_credentials,
            }


def _row(ccache: CCacheSnapshot) -> dict[str, Any]:
    credentials = [credential for _, credential in ccache.credentials]
    tgt = tgt_of(ccache.principal, credentials)
    times = None if tgt is None else tgt.times
    return {
        "uid": ccache.uid,
        "name": ccache.name,
        "uuid": ccache.uuid,
        "principal": principal_text(ccache.principal),
        "default": ccache.is_default,
        "current_default": ccache.is_current_default,
        "tickets": sum(map(is_ticket, credentials)),
        "size": ccache.size,
        "expires": _expires(tgt, ccache),
        "tgt_expires": None if times is None else _local_time(times.endtime, ccache),
        "renew_till": None if times is None else _local_time(times.renew_till, ccache),
        "label": ccache.label,
        "kdc_offset": ccache.kdc_offset,
        # A renewed ticket keeps its authtime and begins to be valid when it is issued.
        "last_renewal": None
        if times is None or times.starttime <= times.authtime
        else _local_time(times.starttime, ccache),
    }


def _renewal(call: Call, ccache: CCacheSnapshot) -> dict[str, Any]:
    """The state of the renewal of its TGT; nothing if no TGT of it is going to be renewed by this host."""
    renewals = call.administration.renewals.current
    tgts = () if renewals is None else renewals.index.of_ccache(ccache.uid, ccache.uuid).values()
    tgt = min(tgts, key=lambda each: (each.due is None, each.due or 0.0), default=None)
    if tgt is None:
        return {}
    return {
        "renewal": {
            "next_attempt": tgt.due,
            "failures": tgt.failures,
            "last_attempt": tgt.last_time,
            "last_result": tgt.last_result or None,
            "last_message": tgt.last_message or None,
        }
    }


def _expires(tgt: Credential | None, ccache: CCacheSnapshot) -> int | None:
    """When the TGT ends, or else the last ticket, by this machine's clock; None: never, or no ticket."""
    if tgt is not None:
        return _local_time(tgt.endtime, ccache)
    ends = [each.endtime for _, each in ccache.credentials if is_ticket(each)]
    return _local_time(max(ends), ccache) if ends and all(ends) else None


def _damaged_row(ccache: DamagedCCache) -> dict[str, Any]:
    unknown = ("principal", "expires", "tgt_expires", "renew_till", "last_renewal")
    return {
        "uid": ccache.uid,
        "name": ccache.name,
        "uuid": ccache.uuid,
        "default": ccache.is_default,
        "current_default": ccache.is_current_default,
        "tickets": 0,
        "size": 0,
        "label": ccache.label,
        "kdc_offset": 0,
        **dict.fromkeys(unknown),
    }


def _local_time(time: int, ccache: CCacheSnapshot) -> int | None:
    """A time of the KDC's clock by this machine's, in seconds since the epoch; None where it is not set.

    The KDC offset is subtracted whether it is positive or negative, as clients do. The ccache's own expiry
    takes the later of two times, because a removal cannot be undone.
    """
    return time - ccache.kdc_offset if time else None


def tgt_of(principal: Principal, credentials: Iterable[Credential]) -> Credential | None:
    """The TGT of the principal's own realm, the latest if there are several; else one of another realm."""
    tgts = [each for each in credentials if is_tgs(each.equality.server) and is_ticket(each)]
    own = name_of(Principal(0, b"", (b"krbtgt", principal.realm)).identity)
    return max(tgts, key=lambda each: (name_of(each.equality.server) == own, each.endtime), default=None)


class ShowArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name` is the ccache's. With `payload`, the bytes of each credential follow it, with its keys."""

    name: bytes
    payload: bool = False


async def show_ccache(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield the ccache, then each of its credentials in stored order."""
    wanted: ShowArguments = call.arguments
    uid = collection_of(wanted.name)
    gone = await _gone_default(call, uid)
    ccache = await call.read(
        uid, lambda collection: snapshot_of(collection, visible(collection, wanted.name, call), gone)
    )
    yield {"ccache": _row(ccache) | _renewal(call, ccache) | _principal(ccache.principal)}
    for uuid, credential in ccache.credentials:
        yield {"credential": _details(uuid, credential)}
        if wanted.payload:
            yield {"payload": credential.blob}


def _details(uuid: bytes, credential: Credential) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "client": principal_text(credential.client),
        "server": principal_text(credential.server),
        "configuration": not is_ticket(credential),
        "enctype": credential.enctype,
        "flags": credential.flags,
        "times": list(credential.times),
        "size": len(credential.blob),
    }


def _principal(principal: Principal) -> dict[str, Any]:
    return {
        "principal_type": principal.name_type,
        "realm": principal.realm,
        "components": list(principal.components),
    }


def visible(collection: Collection, name: bytes, call: Call) -> CCache:
    """The ccache of this name; raises ControlError if it does not exist for the peer."""
    if not collection.has(name) or not call.sees(collection.label_of(name)):
        raise ControlError(ErrorCode.NOT_FOUND, "there is no such ccache")
    ccache = collection.get(name)
    assert ccache is not None
    return ccache
