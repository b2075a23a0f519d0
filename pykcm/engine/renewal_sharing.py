"""Of the hosts that share a store, one renews the TGTs of all; when it dies, another one does."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

from pykcm.store.interface import Sharing, StoreError

log = logging.getLogger(__name__)

# In seconds: the lease of the host that renews, how often that host extends it, and how often others ask for
# it. Another host takes over within the first and the last together.
LEASE = 30.0
_EXTENDED_EVERY = 10.0
_ASKED_EVERY = 5.0

# In seconds: how often other hosts' changes are looked for. A commit appears that much later, at most, than
# its time says.
_INTERVAL = 1.0
_LATEST = 30.0


class RenewalLease:
    """The lease of this host. While it holds it, it learns of other hosts' changes.

    `begin` is called when it gets the lease; `changed` gets UIDs whose TGTs another host, or this one, has
    changed since; `end` is called when it loses the lease.
    """

    def __init__(
        self,
        sharing: Sharing,
        begin: Callable[[], Awaitable[None]],
        changed: Callable[[Iterable[int]], None],
        end: Callable[[], None],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sharing = sharing
        self._begin = begin
        self._changed = changed
        self._end = end
        self._sleep = sleep
        self._clock = clock
        self._holder = os.urandom(16)
        self.is_held = False
        # By the clock: the end of the lease, and when to ask for it again.
        self._until = 0.0
        self._next = 0.0
        # The time of the last look, and the commits that it has found.
        self._looked = 0.0
        self._seen: dict[bytes, list[int]] = {}

    async def run(self) -> NoReturn:
        """Hold the lease whenever no other host does, until cancelled; then let others have it."""
        try:
            while True:
                try:
                    await self._step()
                except StoreError as error:
                    # The engine's other users say why, and the lease may be over before it works again.
                    log.debug("renewals wait for the shared store: %s", error)
                    self._check()
                await self._sleep(_INTERVAL)
        finally:
            if self.is_held:
                self._lose()
                await asyncio.shield(self._release())

    async def _step(self) -> None:
        now = self._clock()
        if now >= self._next:
            if await self._sharing.may_renew(self._holder, LEASE):
                self._until, self._next = now + LEASE, now + _EXTENDED_EVERY
                if not self.is_held:
                    await self._take()
            else:
                self._next = now + _ASKED_EVERY
                if self.is_held:
                    self._lose()
        if self.is_held:
            await self._look()

    async def _take(self) -> None:
        # Changes from now on are found by looks; the search finds all earlier ones.
        self._looked = self._clock()
        self._seen = await self._sharing.commits_of_tgts(_LATEST)
        await self._begin()
        self.is_held = True
        log.info("this host renews the TGTs of all hosts that share the store")

    async def _look(self) -> None:
        now = self._clock()
        found = await self._sharing.commits_of_tgts(now - self._looked + _LATEST)
        self._looked = now
        new = {uid for id_, uids in found.items() if id_ not in self._seen for uid in uids}
        self._seen = found
        if new:
            self._changed(new)

    def _check(self) -> None:
        if self.is_held and self._clock() >= self._until:
            self._lose()

    def _lose(self) -> None:
        self.is_held = False
        self._next = 0.0
        self._end()
        log.info("another host may renew the TGTs of all hosts that share the store")

    async def _release(self) -> None:
        try:
            await self._sharing.end_renewals(self._holder)
        except StoreError as error:
            log.debug("the lease for renewals ends by itself: %s", error)
