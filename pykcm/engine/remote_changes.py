"""Events of other hosts' changes, found out while somebody watches.

While nobody does, this does nothing and takes no memory. When the first watcher comes, all ccaches are noted
once. From then on the versions of all UIDs are asked for twice a second, and collections with a new
version are compared with what was noted. Changes of this host are noted when they are durable: watchers get
their events directly. Of changes that follow each other quickly only the effect is seen. A ccache that was
created and destroyed in between is not reported, and an eviction is reported as destroyed.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.changes import (
    CCacheCreated,
    CCacheMoved,
    CCacheRemoved,
    CCacheReplaced,
    Change,
    CredentialRemoved,
    CredentialStored,
    ExpiryChanged,
    LabelChanged,
)
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.expiry import is_ticket
from pykcm.engine.engine import Collections, Engine
from pykcm.engine.events import Changed, Event, Kind, Watch
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal, is_tgs
from pykcm.store.interface import Sharing, StoreError

log = logging.getLogger(__name__)

# In seconds, between two looks. If one takes long, they take a tenth of all time at most.
_INTERVAL = 0.5
_SHARE = 10

# Versions of one answer, and collections that are read at a time.
_PAGE = 5000
_AT_A_TIME = 8


class _Ticket(NamedTuple):
    """A ticket as it was noted; `digest`: of the whole credential."""

    digest: int
    server: Principal
    end: int
    is_tgt: bool


class _CCache(NamedTuple):
    """A ccache as it was noted; `tickets` by UUID."""

    principal: Principal | None
    label: str | None
    expires: int | None
    tgt_end: int | None
    tickets: dict[bytes, _Ticket]


@dataclass(slots=True)
class _Noted:
    """A collection as it was noted: its ccaches by name, and the name of the default."""

    ccaches: dict[bytes, _CCache] = field(default_factory=dict)
    default: bytes = b""


class _OwnChange(NamedTuple):
    """A change of this host, and what it does to the noted collection."""

    uid: int
    number: int
    effects: list[Callable[[_Noted], None]]


class RemoteChanges(Watch):
    """Tells the watchers of an engine about other hosts' changes, as long as there are any.

    It is one of the engine's observers itself: it notes the changes of this host. `default_of`: see Watch.
    """

    is_client = False

    def __init__(self, engine: Engine, sharing: Sharing, default_of: Callable[[Collection], bytes]) -> None:
        super().__init__(lambda _: None, default_of)
        self._engine = engine
        self._sharing = sharing
        self._default_of = default_of
        self._users = 0
        self._beginning: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._forget()

    def _forget(self) -> None:
        self._noted: defaultdict[int, _Noted] = defaultdict(_Noted)
        self._versions: dict[int, int] = {}
        # By UID: the number of the last change of this host, and of the last one that is durable.
        self._made: defaultdict[int, int] = defaultdict(int)
        self._applied: defaultdict[int, int] = defaultdict(int)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Within it, other hosts' changes are reported; raises StoreError if the store cannot be read."""
        self._users += 1
        try:
            if self._beginning is None:
                self._engine.watchers.add(self, self._end)
                self._beginning = asyncio.ensure_future(self._poll(reports=False))
                self._beginning.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._beginning)
            if self._task is None:
                self._task = asyncio.ensure_future(self._run())
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._end()
                self._beginning = None

    def _end(self) -> None:
        for task in (self._beginning, self._task):
            if task is not None:
                task.cancel()
        self._task = None
        self._engine.watchers.discard(self)
        self._forget()

    async def _run(self) -> None:
        while True:
            begun = time.monotonic()
            # The store says by itself that it is away; the changes are found when it is back.
            with suppress(StoreError):
                await self._poll(reports=True)
            await asyncio.sleep(max(_INTERVAL, _SHARE * (time.monotonic() - begun)))

    async def _poll(self, *, reports: bool) -> None:
        """Compare all collections with a new version. Raises StoreError."""
        last = -1
        while True:
            page = await self._sharing.versions_after(last, _PAGE)
            changed = [(uid, version) for uid, version in page if self._versions.get(uid) != version]
            for start in range(0, len(changed), _AT_A_TIME):
                some = changed[start : start + _AT_A_TIME]
                await asyncio.gather(*(self._compare(*each, reports=reports) for each in some))
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    async def _compare(self, uid: int, version: int, *, reports: bool) -> None:
        number, now = await self._engine.read((uid,), partial(self._look, uid))
        while self._applied[uid] > number:
            # This host has changed it since then.
            number, now = await self._engine.read((uid,), partial(self._look, uid))
        # All changes of this host that the function has seen are durable, and noted.
        events = list(_differences(uid, self._noted[uid], now)) if reports else []
        self._noted[uid] = now
        self._versions[uid] = version
        watchers = self._engine.watchers
        for watcher in list(watchers) if events else ():
            if watcher is not self:
                watchers.call(watcher, watcher.committed, events)

    def _look(self, uid: int, collections: Collections) -> tuple[int, _Noted]:
        """The number of the last change of this host in the collection, and the collection as it is now."""
        collection = collections[uid]
        noted = _Noted({ccache.name: _note(ccache) for ccache in collection}, self._default_of(collection))
        for name in collection.unavailable:
            noted.ccaches[name] = _CCache(None, collection.label_of(name), None, None, {})
        return self._made[uid], noted

    def events(  # type: ignore[override]
        self, changed: Iterable[Changed], defaults_before: dict[int, bytes]
    ) -> list[_OwnChange]:
        """The effects of this host's changes, which `committed` notes."""
        own = []
        for each in changed:
            uid = each.collection.uid
            self._made[uid] += 1
            effects = [_effect(change) for change in each.changes]
            default = self._default_of(each.collection)
            if default != defaults_before[uid]:
                effects.append(partial(_set_default, default))
            own.append(_OwnChange(uid, self._made[uid], effects))
        return own

    def committed(self, events: Iterable[_OwnChange]) -> None:  # type: ignore[override]
        for uid, number, effects in events:
            self._applied[uid] = number
            for effect in effects:
                effect(self._noted[uid])

    def refused(self, uid: int, label: str | None, name: bytes, error: KcmError) -> None:
        """Refusals are the hosts' own."""

    def connection_refused(self, uid: int, label: str | None, detail: str) -> None:
        """Refusals are the hosts' own."""


def _note(ccache: CCache) -> _CCache:
    tickets = {
        uuid: _note_ticket(credential)
        for uuid, credential in ccache.credentials.items()
        if is_ticket(credential)
    }
    return _CCache(ccache.principal, ccache.label, ccache.expires, ccache.credentials.tgt_end, tickets)


def _note_ticket(credential: Credential) -> _Ticket:
    server = credential.equality.server
    return _Ticket(hash(credential.blob), credential.server, credential.endtime, is_tgs(server))


def _effect(change: Change) -> Callable[[_Noted], None]:
    """The effect of this host's change on a noted collection. Others may have changed the rest of it."""
    match change:
        case CCacheCreated(ccache) | CCacheReplaced(ccache):
            return partial(_set_ccache, ccache.name, _note(ccache))
        case CredentialStored(ccache, uuid, credential) if is_ticket(credential):
            return partial(_set_ticket, ccache.name, uuid, _note_ticket(credential), _note(ccache))
        case CredentialRemoved(ccache, uuid):
            return partial(_remove_ticket, ccache.name, uuid)
        case LabelChanged(ccache) | ExpiryChanged(ccache):
            return partial(_set_attributes, ccache.name, ccache.label, ccache.expires)
        case CCacheRemoved(_, name):
            return partial(_remove_ccache, name)
        case CCacheMoved(ccache):
            return partial(_remove_ccache, ccache.name)
    return _change_nothing


def _set_ccache(name: bytes, noted: _CCache, collection: _Noted) -> None:
    collection.ccaches[name] = noted


def _set_ticket(name: bytes, uuid: bytes, ticket: _Ticket, whole: _CCache, collection: _Noted) -> None:
    ccache = collection.ccaches.get(name)
    if ccache is not None:
        tickets = {**ccache.tickets, uuid: ticket}
        collection.ccaches[name] = whole._replace(principal=ccache.principal, tickets=tickets)


def _remove_ticket(name: bytes, uuid: bytes, collection: _Noted) -> None:
    ccache = collection.ccaches.get(name)
    if ccache is not None:
        ccache.tickets.pop(uuid, None)


def _set_attributes(name: bytes, label: str | None, expires: int | None, collection: _Noted) -> None:
    ccache = collection.ccaches.get(name)
    if ccache is not None:
        collection.ccaches[name] = ccache._replace(label=label, expires=expires)


def _remove_ccache(name: bytes, collection: _Noted) -> None:
    collection.ccaches.pop(name, None)


def _set_default(default: bytes, collection: _Noted) -> None:
    collection.default = default


def _change_nothing(collection: _Noted) -> None:
    return None


def _differences(uid: int, before: _Noted, now: _Noted) -> Iterator[Event]:
    """Yield the events that lead from one to the other."""
    seconds = time.time()
    for name, gone in before.ccaches.items():
        if name not in now.ccaches:
            has_expired = gone.expires is not None and gone.expires <= seconds
            kind = Kind.EXPIRED if has_expired else Kind.DESTROYED
            yield Event(seconds, kind, uid, gone.label, name, gone.principal)
    for name, ccache in now.ccaches.items():
        old = before.ccaches.get(name)
        if old is None:
            yield Event(seconds, Kind.CREATED, uid, ccache.label, name, ccache.principal)
        elif _is_replaced(old, ccache):
            is_renewed = old.principal == ccache.principal and (old.tgt_end or 0) < (ccache.tgt_end or 0)
            yield Event(
                *(seconds, Kind.REPLACED, uid, ccache.label, name, ccache.principal),
                is_renewed=is_renewed and old.tgt_end is not None,
            )
        else:
            for uuid, ticket in ccache.tickets.items():
                earlier = old.tickets.get(uuid)
                if earlier is None or earlier.digest != ticket.digest:
                    yield Event(
                        *(seconds, Kind.STORED, uid, ccache.label, name, ccache.principal),
                        server=ticket.server,
                        is_renewed=earlier is not None and ticket.is_tgt and earlier.end < ticket.end,
                    )
    if before.default and now.default != before.default:
        default = now.ccaches.get(now.default)
        yield Event(seconds, Kind.DEFAULT, uid, default.label if default else None, now.default)


def _is_replaced(old: _CCache, new: _CCache) -> bool:
    """Whether the ccache has another principal, or none of the tickets that it had."""
    if old.principal != new.principal:
        return True
    kept = [uuid for uuid, ticket in old.tickets.items() if new.tickets.get(uuid) == ticket]
    return bool(old.tickets) and not kept
