"""Notifications of other hosts' commits: memory is known to be the newest without a question.

A commit notifies its UIDs and their new versions, if some host listens (`pykcm.schema.listened_until`). This
host's memory of a version counts if the version was confirmed since it listens, and no later one notified.

The listener's connection is asked once a second whether it is alive. Memory counts for `BOUND` seconds after
the last such question that was answered: a host whose connection is lost without a word, and which gets no
notification any more, serves nothing older than that. It asks the database with each request then, as with
strict freshness, until it listens again.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic

import psycopg

from pykcm.store.interface import StoreError
from pykcm.store.postgresql.database import Database, check_cancelled, number_of_cancellations
from pykcm.store.postgresql.freshness import LookUp, StrictFreshness
from pykcm.store.postgresql.pipelined_connection import Connection, PipelinedConnection
from pykcm.store.postgresql.schema import VERSION, VERSION_OF_SCHEMA

log = logging.getLogger(__name__)

CHANNEL = "pykcm"

# In seconds: the longest time that memory counts after the connection was lost, and the pause between two
# questions whether it is there.
BOUND = 2.0
_HEARTBEAT = 1.0

# In seconds: a version is asked for again after this time, in case that a host died before it could notify.
_CONFIRMED = 60.0

# UIDs whose versions are noted, at most: about 5 MB. A host asks for those that it has forgotten.
_MOST = 10_000

# In seconds, between attempts to listen.
_PAUSE = 1.0

_LISTEN = f"LISTEN {CHANNEL}"

# Hosts notify until then; renewed after half of the time.
_ASK_FOR_NOTIFICATIONS = """
    UPDATE pykcm.schema SET listened_until = now() + interval '1 day'
    WHERE listened_until IS NULL OR listened_until < now() + interval '12 hours'
"""
_NEXT_TRANSACTION = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
_ARE_EARLIER_ONES_OVER = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %s::xid8"
_HOUR = 3600.0


class NotifiedFreshness(StrictFreshness):
    """Implements Freshness: knows the newest versions while it listens."""

    def __init__(self, database: Database, look_up: LookUp) -> None:
        super().__init__(database, look_up)
        # By UID that this host has asked about: the newest version, and until when it counts.
        self._versions: OrderedDict[int, tuple[int, float]] = OrderedDict()
        # By UID: the last version that was notified, and the number of that notification.
        self._notified: OrderedDict[int, tuple[int, int]] = OrderedDict()
        # The number of the last notification. Answers to questions that began before `_first` do not count:
        # this host has begun or ceased to listen since, or has forgotten a notification.
        self._last = self._first = 0
        self._valid_until = 0.0
        self._task: asyncio.Task[None] | None = None
        # Whether the log says that this host does not listen.
        self._is_logged = False

    @property
    def listens(self) -> bool:
        return monotonic() < self._valid_until

    def is_known_newest(self, uid: int, version: int) -> bool:
        newest, until = self._versions.get(uid, (-1, 0.0))
        now = monotonic()
        return newest == version and now < until and now < self._valid_until

    async def newest_version(self, uid: int) -> int:
        newest, until = self._versions.get(uid, (0, 0.0))
        now = monotonic()
        if now < until and now < self._valid_until:
            return newest
        begun = self.begin()
        version = await super().newest_version(uid)
        if version or not self._database.presence.is_away:
            self.confirm(begun, {uid: version})
        return version

    def begin(self) -> int:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return self._last

    def confirm(self, begun: int, versions: Mapping[int, int]) -> None:
        if begun >= self._first and self.listens:
            for uid, version in versions.items():
                # A later version may have been notified before this answer came.
                self._note(uid, max(version, self._notified.get(uid, (0, 0))[0]))

    def _note(self, uid: int, version: int) -> None:
        if version >= self._versions.get(uid, (0, 0.0))[0]:
            self._versions[uid] = (version, monotonic() + _CONFIRMED)
            self._versions.move_to_end(uid)
            if len(self._versions) > _MOST:
                self._versions.popitem(last=False)

    def notified(self, uid: int, version: int) -> None:
        """Another host, or this one, has committed this version."""
        self._last += 1
        self._notified[uid] = (version, self._last)
        self._notified.move_to_end(uid)
        if len(self._notified) > _MOST:
            _, (_, self._first) = self._notified.popitem(last=False)
        # Others' users, of whom this host holds nothing, take no place among those of this host.
        if uid in self._versions:
            self._note(uid, version)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, StoreError, TimeoutError, OSError) as error:
                if not self._is_logged:
                    self._is_logged = True
                    log.warning(
                        "%s: no notifications: %s; each request asks the database meanwhile",
                        *(self._database.name, str(error).strip() or "no answer"),
                    )
            finally:
                self._forget()
            await asyncio.sleep(_PAUSE)
            await self._database.presence.wait(self._database.timeout)

    def _forget(self) -> None:
        self._begin_again()
        self._valid_until = 0.0
        self._versions.clear()
        self._notified.clear()

    def _begin_again(self) -> None:
        """Let no answer to an earlier question count."""
        self._last += 1
        self._first = self._last

    async def _listen(self) -> None:
        """Listen until the connection is lost; raises that error."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        async with asyncio.timeout(self._database.timeout):
            opened = await self._database.open()
        connection = PipelinedConnection(opened, lambda _: ended.set(), self._take)
        cancellations = number_of_cancellations()
        try:
            async with asyncio.timeout(self._database.timeout):
                await _check_schema(connection, self._database.name)
                opened = connection.psycopg()
                await opened.execute(_LISTEN)
                await opened.execute(_ASK_FOR_NOTIFICATIONS)
            await self._wait_for_earlier_transactions(opened)
            check_cancelled(cancellations)
            self._begin_again()
            asked = monotonic()
            while not ended.is_set():
                begun = monotonic()
                # Those notified before the question come before its answer.
                await _check_schema(connection, self._database.name)
                self._valid_until = begun + BOUND
                if self._is_logged:
                    self._is_logged = False
                    log.info("%s: notifications come again", self._database.name)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT):
                        await ended.wait()
                if monotonic() - asked > _HOUR:
                    asked = monotonic()
                    await connection.execute([(_ASK_FOR_NOTIFICATIONS, {})], loop.time() + BOUND)
            raise OSError("the connection was lost")
        finally:
            connection.finish()

    def _take(self, payload: bytes) -> None:
        with suppress(ValueError):
            uid, _, version = payload.partition(b" ")
            self.notified(int(uid), int(version))

    async def _wait_for_earlier_transactions(self, connection: Connection) -> None:
        """Wait until those are over that did not see that this host listens."""
        cancellations = number_of_cancellations()
        cursor = await connection.execute(_NEXT_TRANSACTION)
        [next_transaction] = await cursor.fetchone() or ("0",)
        while True:
            cursor = await connection.execute(_ARE_EARLIER_ONES_OVER, (next_transaction,))
            [are_over] = await cursor.fetchone() or (False,)
            check_cancelled(cancellations)
            if are_over:
                break
            await asyncio.sleep(_PAUSE / 10)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _check_schema(connection: PipelinedConnection, database: str) -> None:
    """Raise StoreError if this pykcm does not know the schema: newer hosts may notify in another way."""
    end = asyncio.get_running_loop().time() + BOUND
    if await connection.execute([(VERSION_OF_SCHEMA, {})], end) != [(VERSION,)]:
        raise StoreError(f"{database}: the schema has another version")
