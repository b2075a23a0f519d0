"""Whether memory is still the newest: one look-up for all who wait together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pykcm.store.interface import StoreError
from pykcm.store.postgresql.database import Database

LookUp = Callable[[Sequence[int]], Awaitable[dict[int, int]]]

# UIDs of one look-up.
_MOST = 1000


class NewestVersions:
    """Asks for versions in batches. A caller gets the answer to a question that was sent after it asked."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._task: asyncio.Task[None] | None = None

    async def newest(self, uid: int) -> int:
        """The version; raises StoreError."""
        future = self._waiting.get(uid)
        if future is None:
            future = self._waiting[uid] = asyncio.get_running_loop().create_future()
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._answer_all())
        return await asyncio.shield(future)

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                await self._answer([uid for uid, _ in zip(self._waiting, range(_MOST), strict=False)])
        finally:
            self._task = None

    async def _answer(self, uids: Sequence[int]) -> None:
        # Those who come from now on wait for the next look-up.
        futures = {uid: self._waiting.pop(uid) for uid in uids}
        try:
            versions = await self._look_up(uids)
        except BaseException as error:
            for future in futures.values():
                if isinstance(error, Exception):
                    future.set_exception(error)
                    # A caller may have been cancelled.
                    future.exception()
                else:
                    future.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            for uid, future in futures.items():
                future.set_result(versions[uid])


class StrictFreshness:
    """Implements Freshness: asks the database each time. `look_up` must not wait for one that is away."""

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
