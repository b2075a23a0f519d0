"""The reaper removes ccaches whose tickets have all expired long ago."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from pykcm.ccaches.collection import Clock
from pykcm.engine.engine import Collections, Engine, to_the_end
from pykcm.logs import LimitedLog, User
from pykcm.store.interface import StoreError
from pykcm.store.tree import Expired, split_ccache_name

log = logging.getLogger(__name__)

# While the store fails, each UID with an expired ccache causes a line.
_FAILURES = LimitedLog(log, "expired ccaches that cannot be removed", 10)

# In seconds: the client whose request started the daemon is served first.
_WAIT_AT_START = 1.0

_AT_A_TIME = 64

# The largest size of one ccache: nobody waits longer for the reaper than for a user who destroys one.
_BYTES_AT_A_TIME = 4 * 1024 * 1024


class Reaper:
    """Removes each ccache that expired at least `retention` seconds ago by `clock`.

    The store has an index of expiries: ccaches that are not due are not read. A ccache that cannot be removed
    is logged, and tried again the next time.

    Of the hosts that share a store, one at a time does this for all. Two would do no harm, because the second
    one's removals conflict, but each would read all these collections.

    An older version took some entries for tickets that never end, and stored their ccaches as never expiring.
    run() first stores those again, with the expiry that follows from their tickets.
    """

    def __init__(self, engine: Engine, retention: float, clock: Clock = time.time) -> None:
        self._store = engine.store
        self._engine = engine
        self._retention = retention
        self._clock = clock

    async def run(
        self, interval: float, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> NoReturn:
        """Reap at start and every `interval` seconds, until cancelled."""
        pause = _WAIT_AT_START
        are_expiries_right = False
        while True:
            await sleep(pause)
            try:
                are_expiries_right = are_expiries_right or await self._correct_expiries()
                if await self._may_reap(interval):
                    await self.reap()
            except Exception:
                log.exception("expired ccaches are not removed by an error in pykcm")
            pause = interval

    async def _may_reap(self, interval: float) -> bool:
        """Whether no other host has searched within the interval: the work does not grow with the hosts."""
        sharing = self._store.sharing
        try:
            return sharing is None or await sharing.may_reap(interval)
        except StoreError as error:
            log.error("expired ccaches are searched for later: %s", error)  # noqa: TRY400
            return False

    async def reap(self) -> int:
        """Remove all ccaches that are due now; returns their number.

        A removal that has begun is completed even if this is cancelled.
        """
        until = int(self._clock() - self._retention)
        last: Expired | None = None
        removed = 0
        while True:
            try:
                due = await self._store.expired(until, last, _AT_A_TIME)
            except StoreError as error:
                log.error("the search for expired ccaches failed, and is tried again later: %s", error)  # noqa: TRY400
                return removed
            for uid, uuids in _by_uid(due).items():
                removed += await self._reap_one(uid, uuids, until)
            if len(due) < _AT_A_TIME:
                return removed
            last = due[-1]

    async def _correct_expiries(self) -> bool:
        """Store ccaches without expiry again, with the right one; returns whether all of them are stored."""
        part: int | None = 0
        try:
            while part is not None:
                uids, part = await self._store.uids_without_expiry(part)
                for uid in uids:
                    await to_the_end(self._engine.change((uid,), partial(_write_expiries, uid)))
                await asyncio.sleep(0)
        except StoreError as error:
            log.error(  # noqa: TRY400
                "the search for ccaches of an older version failed, and is tried again later: %s", error
            )
            return False
        return True

    async def _reap_one(self, uid: int, uuids: list[bytes], until: int) -> int:
        fields = {"KCM_UID": uid}
        removed, is_more = 0, True
        try:
            while is_more:
                number, is_more = await to_the_end(
                    self._engine.change((uid,), partial(_remove_expired, uid, uuids, until))
                )
                removed += number
        except StoreError as error:
            _FAILURES.write(
                logging.ERROR,
                uid,
                "%s: expired ccaches cannot be removed: %s",
                User(uid),
                error,
                fields=fields,
            )
        except Exception:  # noqa: BLE001 - logged with its traceback
            _FAILURES.write(
                logging.ERROR,
                uid,
                "%s: expired ccaches not removed by an error in pykcm",
                User(uid),
                fields=fields,
                with_traceback=True,
            )
        return removed


def _write_expiries(uid: int, collections: Collections) -> None:
    collections[uid].write_expiries()


def _remove_expired(uid: int, uuids: list[bytes], until: int, collections: Collections) -> tuple[int, bool]:
    return collections[uid].remove_expired(uuids, until, _BYTES_AT_A_TIME)


def _by_uid(due: list[Expired]) -> dict[int, list[bytes]]:
    """The UUIDs of ccaches that are due, by UID; secrets of another kind stay."""
    by_uid: dict[int, list[bytes]] = defaultdict(list)
    for _, name, uid in due:
        with suppress(ValueError):
            by_uid[uid].append(split_ccache_name(name)[0])
    return by_uid
