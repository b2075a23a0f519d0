"""The change of the shared key while all hosts serve.

Every host has the old key and the next one. One host notes in the database that the next key seals and the
old one does not any more: commits check that in their transaction, so each host follows with its next commit
or look-up. Then this host seals all rows again, in batches. A row is only written if it is still the one that
was read. Its contents and its UID's version stay, so memory on other hosts stays right. At last the old key's
id is removed. If this is interrupted, or two hosts do it at once, it is done again from where the rows are.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, NamedTuple

from pykcm.logs import User
from pykcm.store.copies import Copied, Rekeyed, StoreBusyError, UnsupportedError
from pykcm.store.interface import StoreError, StoreUnusableError
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.keyring import KeyFiles, Keyring, registered_keys, schema_refusal
from pykcm.store.postgresql.pipelined_connection import Connection
from pykcm.store.postgresql.sealing import KEY_ID_SIZE, Place, Sealer, SharedKey, UnsealError

log = logging.getLogger(__name__)

# One page lists so many rows. One batch writes at most so many rows and bytes, or one larger row.
_PAGE = 1000
_ROWS = 128
_BYTES = 1024 * 1024

# Rows that were changed while they were sealed are looked at again, in so many passes at most.
_PASSES = 20

# In seconds: for transactions that began before the next key was noted, and may still write with the old one.
_PATIENCE = 60.0
_PAUSE = 0.1

# Only one key seals. Of two hosts with different next keys only one finds that the old key may still seal.
_NOTE = """
    WITH replaced AS (
        UPDATE pykcm.keys SET may_seal = false
        WHERE id = %(old)s AND may_seal AND NOT EXISTS (SELECT FROM pykcm.keys WHERE id = %(new)s)
        RETURNING id
    )
    INSERT INTO pykcm.keys (id, may_seal) SELECT %(new)s, true FROM replaced
"""
_REMOVE = "DELETE FROM pykcm.keys WHERE id = %s AND NOT may_seal"
_COUNT = "SELECT count(*) FROM pykcm.collections"
_LIST = f"""
    SELECT uid, ccache, item, octet_length(sealed), substring(sealed FROM 2 FOR {KEY_ID_SIZE})
    FROM pykcm.secrets WHERE (uid, ccache, item) > (%(uid)s, %(ccache)s, %(item)s)
    ORDER BY uid, ccache, item LIMIT {_PAGE}
"""  # noqa: S608
_READ = """
    SELECT s.uid, s.ccache, s.item, s.expires, s.sealed
    FROM unnest(%(uids)s::bigint[], %(ccaches)s::bytea[], %(items)s::bytea[]) AS p (uid, ccache, item)
        JOIN pykcm.secrets s ON s.uid = p.uid AND s.ccache = p.ccache AND s.item = p.item
"""
# The rows of collections are locked first, in the order of commits: neither ever waits for the other's rows.
_WRITE = """
    WITH locked AS MATERIALIZED (
        SELECT uid FROM pykcm.collections WHERE uid = ANY(%(locked)s) ORDER BY uid FOR UPDATE
    )
    UPDATE pykcm.secrets s SET sealed = w.new
    FROM unnest(%(uids)s::bigint[], %(ccaches)s::bytea[], %(items)s::bytea[], %(olds)s::bytea[],
        %(news)s::bytea[]) AS w (uid, ccache, item, old, new)
    WHERE s.uid = w.uid AND s.ccache = w.ccache AND s.item = w.item AND s.sealed = w.old
        AND (SELECT count(*) FROM locked) >= 0
"""
# The first transaction that had not begun yet, and whether all before one have ended.
_HORIZON = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
_IS_PAST = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::numeric >= %s::text::numeric"


class _Listed(NamedTuple):
    place: Place
    size: int
    key_id: bytes


class Rekeying:
    """Changes the key of a store, at the wish of an administrator of this host; once at a time."""

    def __init__(self, database: Database, keyring: Keyring, files: KeyFiles) -> None:
        self._database = database
        self._keyring = keyring
        self._files = files
        self._is_running = False

    async def rekey(self, raw: bytes | None) -> AsyncGenerator[Copied | Rekeyed, None]:
        """As Copies describes it; an interrupted change of keys goes on when this is called again."""
        if self._is_running:
            raise StoreBusyError("this daemon is changing the key already")
        self._is_running = True
        try:
            async for step in self._rekey(raw):
                yield step
        finally:
            self._is_running = False

    async def _rekey(self, raw: bytes | None) -> AsyncGenerator[Copied | Rekeyed, None]:
        try:
            place = await asyncio.to_thread(lambda: self._files.place)
            keys = await asyncio.to_thread(self._files.read)
        except StoreUnusableError as error:
            raise UnsupportedError(str(error)) from None
        old, new = _keys(keys, raw, self._files)
        if (refusal := await schema_refusal(self._database)) is not None:
            raise refusal
        await self._note(old, new)
        await self._keyring.renew()
        passes = _Passes(self._database, Sealer([new, old]))
        total = int((await self._fetch(_COUNT))[0][0])
        yield Copied(0, max(total, 1))
        horizon = (await self._fetch(_HORIZON))[0][0]
        async for done in passes.run():
            yield Copied(min(done, total), max(total, 1))
        if not await self._has_passed(horizon):
            raise StoreBusyError(
                "transactions that began before this change of keys are still running in the database, and "
                "may write rows with the old key: end them, then call rekey again"
            )
        for _ in range(_PASSES):
            async for done in passes.run():
                yield Copied(min(done, total), max(total, 1))
            if not passes.found:
                break
        else:
            raise StoreBusyError("some rows change all the time: call rekey again")
        if passes.damaged:
            log.error(
                "%s: rows that cannot be unsealed stay as they are: %d", self._database.name, passes.damaged
            )
        await self._fetch(_REMOVE, (old.id,))
        await self._keyring.renew()
        is_pending = await asyncio.to_thread(self._is_pending, new)
        yield Rekeyed(
            self._files.next_place if is_pending else place,
            place,
            self._files.is_credential,
            is_pending,
            0.0,
            is_shared=True,
        )

    def _is_pending(self, new: SharedKey) -> bool:
        return self._files.read()[0].id != new.id

    async def _note(self, old: SharedKey, new: SharedKey) -> None:
        """Note in the database that the next key seals; raises UnsupportedError, StoreError."""
        try:
            await self._fetch(_NOTE, {"old": old.id, "new": new.id})
        except StoreError:
            # Another host with the same keys may have noted them in the same moment.
            if not (await registered_keys(self._database)).get(new.id):
                raise
        registered = await registered_keys(self._database)
        if not registered.get(new.id):
            sealing = ", ".join(key_id.hex() for key_id, may_seal in registered.items() if may_seal)
            raise UnsupportedError(
                f"the other hosts seal with the key {sealing}, which is neither this host's key "
                f"{old.id.hex()} nor its next one {new.id.hex()}: give all hosts the same two keys"
            )

    async def _has_passed(self, horizon: str) -> bool:
        """Wait until all transactions that began before `horizon` have ended; False: some have not."""
        end = asyncio.get_running_loop().time() + _PATIENCE
        while not (await self._fetch(_IS_PAST, (horizon,)))[0][0]:
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    async def _fetch(self, statement: str, parameters: Any = ()) -> list[Any]:
        return await _fetch(self._database, statement, parameters)


def _keys(keys: Sequence[SharedKey], raw: bytes | None, files: KeyFiles) -> tuple[SharedKey, SharedKey]:
    """The present key and the next one; raises UnsupportedError."""
    present, *following = keys
    if not following:
        raise UnsupportedError(
            f"this host has no next key: put one of 32 random bytes into {files.next_place} on every host (a "
            "systemd credential needs a restart), look with `pykcmctl store check`, then rekey on one host"
        )
    if raw is not None and SharedKey(raw).id != following[0].id:
        raise UnsupportedError(
            f"a key for one host alone would end the service of others: put it into {files.next_place} on "
            "every host, then call rekey without --new-key"
        )
    if present.id == following[0].id:
        raise UnsupportedError(f"{files.next_place} holds the present key: make another one")
    return present, following[0]


class _Passes:
    """Passes over all rows. `found`: rows of the last pass that had another key and may still have it.

    `damaged`: rows that neither key unseals.
    """

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self.found = 0
        self.damaged = 0

    async def run(self) -> AsyncGenerator[int, None]:
        """Seal each row that is not sealed with the new key; yields how many UIDs were passed."""
        self.found = self.damaged = 0
        place, uid, done = Place(-1), -1, 0
        while True:
            found = await _fetch(self._database, _LIST, place._asdict())
            rows = [_Listed(Place(*row[:3]), *row[3:]) for row in found]
            for batch in _batches(row for row in rows if row.key_id != self._sealer.key.id):
                await self._seal(batch)
            for row in rows:
                if row.place.uid != uid:
                    uid, done = row.place.uid, done + 1
            yield done
            if len(rows) < _PAGE:
                return
            place = rows[-1].place

    async def _seal(self, places: Sequence[Place]) -> None:
        found = await _fetch(self._database, _READ, _columns("uids ccaches items", places))
        rows = []
        for uid, ccache, item, expires, sealed in found:
            place = Place(uid, ccache, item)
            try:
                value = self._sealer.unseal(place, sealed, expires)
            except UnsealError as error:
                self.damaged += 1
                log.error("%s: %s: a row cannot be unsealed: %s", self._database.name, User(uid), error)  # noqa: TRY400
                continue
            self.found += 1
            rows.append((*place, sealed, self._sealer.seal(place, value, expires)))
        if rows:
            uids = sorted({row[0] for row in rows})
            await _fetch(
                self._database, _WRITE, {"locked": uids, **_columns("uids ccaches items olds news", rows)}
            )


def _batches(rows: Iterator[_Listed]) -> Iterator[list[Place]]:
    batch: list[Place] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == _ROWS or size + row.size > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row.place)
        size += row.size
    if batch:
        yield batch


def _columns(names: str, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Parameters for unnest: a list for each column."""
    return {name: [row[index] for row in rows] for index, name in enumerate(names.split())}


async def _fetch(database: Database, statement: str, parameters: Any = ()) -> list[Any]:
    """Raises StoreError. The statement may run twice."""

    async def fetch(connection: Connection) -> list[Any]:
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []

    return await database.repeatable(fetch)
