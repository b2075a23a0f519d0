"""The TGTs that can be renewed, found once by a scan and then from each change of a ccache.

The scan begins with the first client that renews TGTs: without one, this does nothing. It takes at most half
of the time, and reads one collection at a time, without keeping it in the cache.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, NoReturn

from pykcm.ccaches.changes import (
    Change,
)
from pykcm.ccaches.renewal import RenewableTgt, Schedule, ccaches_with_other_tgts, renewable_tgts
from pykcm.engine.engine import Collections, Engine
from pykcm.engine.renewal_queue import RenewalQueue, Tgt
from pykcm.logs import LimitedLog, User
from pykcm.store.interface import StoreError

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "collections whose TGTs are not renewed by an error in pykcm", 10)

# In seconds: after this time a collection that could not be read is read again.
_AGAIN_AFTER = 2.0

# Collections that are read before others have their turn for as long.
_AT_A_TIME = 16

# The TGTs of each ccache, by its UUID and theirs.
_OfUid = dict[bytes, dict[bytes, Tgt]]


class _Found(NamedTuple):
    """A ccache, and its TGTs that can be renewed."""

    ccache: bytes
    tgts: Sequence[RenewableTgt]


class RenewalIndex:
    """Keeps the queue's TGTs equal to those in the store. `notify`: called when the queue has changed."""

    def __init__(
        self,
        engine: Engine,
        queue: RenewalQueue,
        schedule: Schedule,
        notify: Callable[[], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._schedule = schedule
        self._notify = notify
        self._jitter = jitter
        self._by_uid: dict[int, _OfUid] = {}
        # Whether this host renews TGTs, and not another one for it.
        self.is_active = True
        # UIDs whose collections have to be read, in this order.
        self._to_read: dict[int, None] = {}
        self._arrived = asyncio.Event()
        # The UID that is being read, and whether it was changed meanwhile.
        self._reading: int | None = None
        self._is_outdated = False

    def __len__(self) -> int:
        return sum(len(tgts) for ccaches in self._by_uid.values() for tgts in ccaches.values())

    @property
    def is_reading(self) -> bool:
        """Whether collections have to be read: the queue may lack some TGTs."""
        return bool(self._to_read) or self._reading is not None

    def of_ccache(self, uid: int, ccache: bytes) -> Mapping[bytes, Tgt]:
        """The TGTs of a ccache, by the UUIDs of their credentials."""
        return self._by_uid.get(uid, {}).get(ccache, {})

    def is_known(self, tgt: Tgt) -> bool:
        """Whether this TGT is still the one in its ccache, as far as is known."""
        return self.of_ccache(tgt.uid, tgt.ccache).get(tgt.uuid) is tgt

    def remove(self, tgt: Tgt) -> None:
        """Remove a TGT that is no longer in its ccache."""
        if self.is_known(tgt):
            self._update(tgt.uid, tgt.ccache, self._left(tgt))

    def _left(self, tgt: Tgt) -> Iterator[Tgt]:
        return (each for each in self.of_ccache(tgt.uid, tgt.ccache).values() if each is not tgt)

    async def reschedule(self) -> None:
        """Have each TGT due as if it had never been tried, except those that can never be renewed.

        The clock was set: by the old one, TGTs had seemed expired, or had to wait.
        """
        tgts = [
            tgt
            for of_uid in self._by_uid.values()
            for of_ccache in of_uid.values()
            for tgt in of_ccache.values()
        ]
        for number, tgt in enumerate(tgts, 1):
            if not tgt.is_final and self.is_known(tgt) and not self._queue.is_tried(tgt):
                self._queue.discard(tgt)
                tgt.due = tgt.first_due
                self._queue.put(tgt)
            if not number % _AT_A_TIME:
                await asyncio.sleep(0)

    # Called by the engine

    def committed(self, uid: int, changes: Iterable[Change]) -> None:
        """Note changes that are durable."""
        if not self.is_active:
            return
        if uid == self._reading:
            self._is_outdated = True
        for ccache, contents in ccaches_with_other_tgts(changes).items():
            self._note(uid, ccache, () if contents is None else renewable_tgts(contents))

    def dropped(self, uid: int) -> None:
        """Read a collection again: it was in memory with changes that were not committed."""
        self.read_again((uid,))

    # Reading

    def read_again(self, uids: Iterable[int]) -> None:
        """Have these collections read."""
        for uid in uids if self.is_active else ():
            if uid == self._reading:
                self._is_outdated = True
            self._to_read.setdefault(uid)
        self._arrived.set()

    def clear(self) -> None:
        """Forget all TGTs."""
        for tgts in [tgts for ccaches in self._by_uid.values() for tgts in ccaches.values()]:
            for tgt in tgts.values():
                self._queue.discard(tgt)
        self._by_uid.clear()
        self._to_read.clear()
        self._is_outdated = True

    async def search(self) -> None:
        """Have the collections of all users read."""
        uids = None
        while uids is None:
            try:
                uids = await self._engine.store.uids()
            except StoreError as error:
                log.error("TGTs that can be renewed are searched for later: %s", error)  # noqa: TRY400
                await asyncio.sleep(_AGAIN_AFTER)
        self.read_again(uids)

    async def run(self) -> NoReturn:
        """Read the collections that have to be read, until cancelled."""
        while True:
            begun = time.monotonic()
            failed = False
            for _ in range(min(len(self._to_read), _AT_A_TIME)):
                if not await self._read_next():
                    failed = True
                    break
            if failed:
                await asyncio.sleep(_AGAIN_AFTER)
            elif self._to_read:
                await asyncio.sleep(time.monotonic() - begun)
            else:
                self._arrived.clear()
                await self._arrived.wait()

    async def _read_next(self) -> bool:
        """Read the first of the collections; returns False if that has to be tried again later."""
        uid = next(iter(self._to_read), None)
        if uid is None:
            return True
        del self._to_read[uid]
        self._reading, self._is_outdated = uid, False
        try:
            found = await self._engine.read((uid,), partial(_find, uid))
        except StoreError:
            # The engine's other users say why.
            self._to_read.setdefault(uid)
            return False
        except Exception:  # noqa: BLE001 - logged with its traceback
            _FAULTS.write(
                logging.ERROR,
                uid,
                "%s: its TGTs are not renewed by an error in pykcm",
                User(uid),
                fields={"KCM_UID": uid},
                with_traceback=True,
            )
            return True
        finally:
            self._reading = None
        if not self.is_active:
            return True
        if self._is_outdated:
            self._to_read.setdefault(uid)
            return True
        for ccache in self._by_uid.get(uid, {}).keys() - {each.ccache for each in found}:
            self._note(uid, ccache, ())
        for each in found:
            self._note(uid, each.ccache, each.tgts)
        return True

    def _note(self, uid: int, ccache: bytes, tgts: Iterable[RenewableTgt]) -> None:
        """Note the TGTs of a ccache that can be renewed. One that is known already keeps its state."""
        known = self.of_ccache(uid, ccache)
        noted = []
        for each in tgts:
            digest = hash(each.credential.blob)
            old = known.get(each.uuid)
            if old is not None and (old.digest, old.end) == (digest, each.end):
                noted.append(old)
                continue
            due = each.due(self._schedule, self._jitter())
            noted.append(Tgt(uid, ccache, each.uuid, digest, each.realm, each.end, due))
        if noted or known:
            self._update(uid, ccache, noted)

    def _update(self, uid: int, ccache: bytes, tgts: Iterable[Tgt]) -> None:
        ccaches = self._by_uid.setdefault(uid, {})
        old = ccaches.pop(ccache, {})
        new = {tgt.uuid: tgt for tgt in tgts}
        for uuid, tgt in old.items():
            if new.get(uuid) is not tgt:
                self._queue.discard(tgt)
        for uuid, tgt in new.items():
            if old.get(uuid) is not tgt:
                self._queue.put(tgt)
        if new:
            ccaches[ccache] = new
        elif not ccaches:
            del self._by_uid[uid]
        self._notify()


def _find(uid: int, collections: Collections) -> list[_Found]:
    return [_Found(ccache.uuid, tgts) for ccache in collections[uid] if (tgts := renewable_tgts(ccache))]
