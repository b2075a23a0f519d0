"""The requests destroy, reap and switch, which change ccaches."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import msgspec

from pykcm.ccaches.collection import Collection
from pykcm.control.calls import Call
from pykcm.control.listing import visible
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.records import Uid
from pykcm.logs import User
from pykcm.peer.names import collection_of

log = logging.getLogger(__name__)

# The largest size of one ccache: others wait no longer for this than for a user who destroys one.
_BYTES_AT_A_TIME = 4 * 1024 * 1024

# The name and the UUID of a ccache.
_Named = tuple[bytes, bytes]


class DestroyArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of three: the ccache of this name, all of this UID, or all whose tickets have all expired."""

    name: bytes | None = None
    uid: Uid | None = None
    expired: bool = False


async def destroy(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield each destroyed ccache."""
    wanted: DestroyArguments = call.arguments
    if [wanted.name is not None, wanted.uid is not None, wanted.expired].count(True) != 1:
        raise ControlError(ErrorCode.ARGUMENTS, "one of name, uid and expired is needed")
    change = call.change
    names: list[bytes]
    if wanted.name is not None:
        uid = collection_of(wanted.name)
        names = await change(uid, lambda collection: _destroy_one(collection, wanted.name or b"", call))
        yield {"uid": uid, "name": names[0]}
        return
    uids = await call.administration.store.uids() if wanted.uid is None else [wanted.uid]
    for uid in uids:
        left: Sequence[_Named] | None = None
        while left is None or left:
            destroy_some = partial(_destroy_some, call=call, left=left, expired=wanted.expired)
            names, left = await change(uid, destroy_some)
            # A change that changes nothing does not yield to the event loop.
            await asyncio.sleep(0)
            for name in names:
                yield {"uid": uid, "name": name}
    if wanted.expired:
        call.summarize_doubt()


def _destroy_one(collection: Collection, name: bytes, call: Call) -> list[bytes]:
    # A damaged ccache can be destroyed as well.
    if not collection.has(name):
        raise ControlError(ErrorCode.NOT_FOUND, "there is no such ccache")
    call.check_changeable(collection.label_of(name))
    collection.destroy(name)
    return [name]


def _destroy_some(
    collection: Collection, call: Call, left: Sequence[_Named] | None, *, expired: bool
) -> tuple[list[bytes], Sequence[_Named]]:
    """Destroy 4 MiB of ccaches, or a single larger one; returns their names, and what is left to destroy.

    `left` None: all present ccaches that the peer may change; ccaches that are created later stay.
    `expired`: only those whose tickets have all expired.
    """
    if left is None:
        left = [(ccache.name, ccache.uuid) for ccache in collection]
        if not expired:
            left += collection.unavailable.items()
    access = call.administration.access
    destroyed: list[bytes] = []
    size = 0
    for position, (name, uuid) in enumerate(left):
        ccache = collection.by_uuid(uuid)
        if ccache is None:
            is_wanted = collection.unavailable.get(name) == uuid
        else:
            is_wanted = not expired or ccache.has_expired(collection.removal_time)
        if not is_wanted or not access.may_use(call.peer, collection.label_of(name)):
            continue
        size += 0 if ccache is None else ccache.size
        if destroyed and size > _BYTES_AT_A_TIME:
            return destroyed, left[position:]
        collection.destroy(name)
        destroyed.append(name)
    return destroyed, []


class ReapArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`trust_clock`: believe a clock that is in doubt."""

    trust_clock: bool = False


async def reap(call: Call) -> None:
    """Run the reaper now; the summary has the number of ccaches that it removed."""
    wanted: ReapArguments = call.arguments
    call.check_unconfined()
    keeper = call.administration.clock_keeper
    if wanted.trust_clock and not keeper.clock.is_believed():
        log.info("the clock is believed: an administrator says that it is right")
        keeper.clock.believe()
        await keeper.keep()
    call.summary = {"ccaches": await call.administration.reaper.reap()}
    call.summarize_doubt()


class SwitchArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make the ccache of this name the default that the processes of the UID share."""

    uid: Uid
    name: bytes


async def switch(call: Call) -> None:
    wanted: SwitchArguments = call.arguments
    if collection_of(wanted.name) != wanted.uid:
        raise ControlError(ErrorCode.ARGUMENTS, f"the ccache does not belong to {User(wanted.uid)}")
    await call.change(wanted.uid, lambda collection: _switch(collection, wanted.name, call))


def _switch(collection: Collection, name: bytes, call: Call) -> None:
    visible(collection, name, call)
    if not call.moves_default(None):
        raise ControlError(ErrorCode.PERMISSION, "this SELinux level may not move the shared default")
    collection.set_default(name)
