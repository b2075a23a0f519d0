"""Whether memory is still the newest: one look-up for all who wait together."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from pykcm.store.interface import StoreError
from pykcm.store.postgresql.database import Database

# UIDs of one look-up.
_MOST = 1000


class LookUp(Protocol):
    """Looks up the newest versions of UIDs, by two ways. A UID without a version has version 0."""

    def ask_versions(self, uids: Sequence[int], answered: Callable[[Mapping[int, int] | None], None]) -> bool:
        """Ask at once, if that is possible now; returns whether it is. `answered` gets None for a failure."""

    async def versions(self, uids: Sequence[int]) -> dict[int, int]:
        """Ask, and wait if need be; raises StoreError. It must not wait for a database that is away."""


_Futures = dict[int, list[asyncio.Future[int]]]


class NewestVersions:
    """Asks for versions in batches. A caller gets the answer to a question that was sent after it asked."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        # By UID. Those who come while a look-up is in progress wait for the next one.
        self._waiting: _Futures = {}
        self._is_asking = False
        self._task: asyncio.Task[None] | None = None  # kept, because an event loop holds tasks weakly

    def newest(self, uid: int) -> asyncio.Future[int]:
        """The version; its exception is StoreError."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(uid, []).append(future)
        if not self._is_asking:
            self._ask_soon()
        return future

    def _ask_soon(self) -> None:
        """Ask when all requests that have come are there."""
        self._is_asking = True
        loop = asyncio.get_running_loop()
        # Where the loop has it (see sockets.event_loop).
        getattr(loop, "call_after_readers", loop.call_soon)(self._ask)

    def _ask(self) -> None:
        asked = self._waiting
        if len(asked) <= _MOST:
            self._waiting = {}
        else:
            asked = {uid: asked.pop(uid) for uid, _ in zip(list(asked), range(_MOST), strict=False)}
        is_sent = False
        try:
            is_sent = self._look_up.ask_versions(list(asked), partial(self._answer, asked))
        finally:
            if not is_sent:
                self._ask_in_task(asked)

    def _answer(self, asked: _Futures, versions: Mapping[int, int] | None) -> None:
        if versions is None:
            self._ask_in_task(asked)
            return
        for uid, futures in asked.items():
            for future in futures:
                # A caller may have been cancelled.
                if not future.done():
                    future.set_result(versions.get(uid, 0))
        self._go_on()

    def _ask_in_task(self, asked: _Futures) -> None:
        self._task = asyncio.ensure_future(self._ask_and_wait(asked))

    async def _ask_and_wait(self, asked: _Futures) -> None:
        try:
            versions = await self._look_up.versions(list(asked))
        except BaseException as error:
            for future in (each for futures in asked.values() for each in futures if not each.done()):
                if isinstance(error, Exception):
                    future.set_exception(error)
                else:
                    future.cancel()
            if not isinstance(error, Exception):
                raise
            self._go_on()
        else:
            self._answer(asked, versions)

    def _go_on(self) -> None:
        if self._waiting:
            self._ask_soon()
        else:
            self._is_asking = False


class StrictFreshness:
    """Implements Freshness: asks the database each time."""

    def __init__(self, database: Database, look_up: LookUp) -> None:
        self._database = database
        self._newest = NewestVersions(look_up)

    def is_known_newest(self, uid: int, version: int) -> bool:
        return False

    async def newest_version(self, uid: int) -> int:
        """The version; 0 while the database is away, for `stale_reads` after it was last seen."""
        presence = self._database.presence
        if not presence.is_away:
            try:
                return await self._newest.newest(uid)
            except StoreError:
                if not presence.is_away:
                    raise
        if presence.seconds_unseen() > self._database.stale_reads:
            raise self._database.away()
        return 0

    def begin(self) -> int:
        """Note that a question begins, for `confirm`."""
        return 0

    def confirm(self, begun: int, versions: Mapping[int, int]) -> None:
        """Note the newest versions by UID, of the answer to a question that began then."""

    def close(self) -> None:
        """End."""
