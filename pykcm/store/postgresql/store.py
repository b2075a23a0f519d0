"""The shared store: each UID's rows have a version, and a commit names the one that it is based on."""

import errno
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from pykcm.store.interface import (
    Committed,
    Conflict,
    Entry,
    Loaded,
    Outcome,
    Pause,
    Refused,
    StoreError,
    Unknown,
)
from pykcm.store.postgresql import statements
from pykcm.store.postgresql.database import (
    Connection,
    Database,
    LostAnswerError,
    PartialConflictError,
    RepeatError,
)
from pykcm.store.postgresql.freshness import NewestVersions
from pykcm.store.postgresql.rows import (
    Container,
    Row,
    StoredRow,
    row_changes,
    secrets_of,
    sources_of_renames,
)
from pykcm.store.postgresql.sealing import NIL, Place, Sealer, UnsealError
from pykcm.store.postgresql.statements import Sealed, Statement, commit_statements
from pykcm.store.tree import Expired, SecretChange

log = logging.getLogger(__name__)

# Rows that are unsealed before others have their turn.
_ROWS_AT_ONCE = 256

_UIDS_AT_A_TIME = 500

# Of an entry that others' transactions were in the way of.
_ATTEMPTS = 5


class PostgreSQLStore:
    """Implements Store on a database that other hosts use, too."""

    persistent = True
    needs_task = True

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self.database = database
        self._sealer = sealer
        self._newest = NewestVersions(self.versions)

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        found = await self._query(statements.LOAD, (uid,))
        if not found:
            return Loaded(0, [])
        rows = []
        for number, (_, ccache, item, sealed, expires) in enumerate(found, 1):
            if sealed is not None:
                rows.append(self._unseal(Place(uid, ccache, item), sealed, expires))
            if pause is not None and not number % _ROWS_AT_ONCE:
                await pause()
        return Loaded(found[0][0], secrets_of(rows))

    def _unseal(self, place: Place, sealed: bytes, expires: int | None) -> StoredRow:
        """Raises StoreError."""
        try:
            return StoredRow(place, self._sealer.unseal(place, sealed, expires), expires)
        except UnsealError as error:
            raise StoreError(
                f"{self.database.name}: a row of UID {place.uid} (ccache {place.ccache.hex()}, item "
                f"{place.item.hex()}) cannot be unsealed: {error}"
            ) from None

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> None:
        return None

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        together = _without_common_uids(entries)
        if len(together) > 1:
            outcomes = await self._commit_together([(each, entries[each]) for each in together])
        return [
            outcomes.get(number) or await self._commit_alone(entry) for number, entry in enumerate(entries)
        ]

    async def _commit_together(self, entries: Sequence[tuple[int, Entry]]) -> dict[int, Outcome]:
        """The outcomes by number; none where they have to be committed one by one."""
        try:
            sealed = [await self._prepare(entry) for _, entry in entries]
            done = await self._run(sealed)
        except (RepeatError, StoreError):
            # Each gets an attempt of its own: they share no failure.
            return {}
        except LostAnswerError as lost:
            return {number: Unknown(lost.error) for number, _ in entries}
        return {number: _outcome_of(entry, done) for number, entry in entries}

    async def _commit_alone(self, entry: Entry) -> Outcome:
        if not entry.bases:
            return Committed()
        for _ in range(_ATTEMPTS):
            try:
                done = await self._run([await self._prepare(entry)])
            except RepeatError:
                continue
            except PartialConflictError:
                break
            except LostAnswerError as lost:
                return Unknown(lost.error)
            except StoreError as error:
                return Refused(error)
            return _outcome_of(entry, done)
        # The engine reads again, which is right whoever was in the way.
        return Conflict(tuple(entry.bases))

    async def _prepare(self, entry: Entry) -> Sealed:
        """Raises StoreError, LostAnswerError."""
        renamed = {source: await self._read(source) for source in sources_of_renames(entry.changes)}
        return Sealed(entry.id, dict(entry.bases), row_changes(entry.changes, renamed))

    async def _read(self, container: Container) -> dict[bytes, Row]:
        found = await self._query(
            statements.LOAD_CREDENTIALS, {"uid": container.uid, "ccache": container.ccache, "nil": NIL}
        )
        return {
            item: Row(self._unseal(Place(container.uid, container.ccache, item), sealed, None).value)
            for item, sealed in found
        }

    async def _run(self, entries: Sequence[Sealed]) -> set[bytes]:
        """The ids of the entries that were committed."""
        todo = commit_statements(entries, self._sealer)
        done = {id_ for id_, _ in await self.database.call(partial(_transact, todo))}
        if None in done:
            raise StoreError(
                f"{self.database.name}: this host's key {self._sealer.key.id.hex()} was replaced, or is "
                "not the other hosts': give it the key that they have",
                errno.EACCES,
            )
        return done

    async def outcome(self, entry: Entry) -> Committed | None:
        async def find_out(connection: Connection) -> bool:
            await connection.execute(statements.SETTLE, (entry.id,))
            cursor = await connection.execute(statements.IS_MADE, (entry.id,))
            row = await cursor.fetchone()
            return bool(row and row[0])

        return _committed(entry) if await self.database.repeatable(find_out) else None

    async def versions(self, uids: Sequence[int]) -> dict[int, int]:
        """The newest version of each UID; raises StoreError."""
        found: dict[int, int] = dict(await self._query(statements.VERSIONS, (list(uids),)))
        return {uid: found.get(uid, 0) for uid in uids}

    async def is_newest(self, uid: int, version: int) -> bool:
        """Whether the UID's newest version is this one; raises StoreError.

        While the database is away, the answer is yes for `stale_reads`.
        """
        presence = self.database.presence
        if not presence.is_away:
            try:
                return await self._newest.newest(uid) == version
            except StoreError:
                if not presence.is_away:
                    raise
        if presence.seconds_unseen() > self.database.stale_reads:
            raise self.database.away()
        return True

    async def uids(self) -> list[int]:
        return [uid for (uid,) in await self._query(statements.UIDS, ())]

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        begin = (-(2**63), NIL) if after is None else (after.expires, bytes.fromhex(after.name[:32]))
        expired = []
        for expires, ccache, uid, sealed in await self._query(statements.EXPIRED, (until, *begin, limit)):
            row = self._unseal(Place(uid, ccache), sealed, expires)
            [secret] = secrets_of([row])
            expired.append(Expired(expires, secret.name, uid))
        return expired

    async def uids_without_expiry(self, after: int) -> tuple[list[int], int | None]:
        # The UID before the first one is none.
        found = await self._query(statements.WITHOUT_EXPIRY, (after - 1, _UIDS_AT_A_TIME))
        uids = [uid for (uid,) in found]
        return uids, uids[-1] + 1 if len(uids) == _UIDS_AT_A_TIME else None

    async def count_ccaches(self) -> int:
        [(number,)] = await self._query(statements.COUNT, ())
        return int(number)

    async def _query(self, statement: str, parameters: Any) -> list[Any]:
        """Raises StoreError."""
        return await self.database.repeatable(partial(_fetch, statement, parameters))

    def close(self) -> None:
        self.database.close()


async def _transact(todo: Sequence[Statement], connection: Connection) -> list[Any]:
    """The rows of the first statement; all of them are one transaction, and one round trip."""
    async with connection.pipeline():
        cursors = [await connection.execute(*each) for each in todo]
    return await cursors[0].fetchall()


async def _fetch(statement: str, parameters: Any, connection: Connection) -> list[Any]:
    cursor = await connection.execute(statement, parameters)
    return await cursor.fetchall()


def _without_common_uids(entries: Sequence[Entry]) -> list[int]:
    """The numbers of entries of one UID each that can share a statement."""
    uses = Counter(uid for entry in entries for uid in entry.bases)
    return [
        number
        for number, entry in enumerate(entries)
        if len(entry.bases) == 1 and all(uses[uid] == 1 for uid in entry.bases)
    ]


def _committed(entry: Entry) -> Committed:
    return Committed({uid: base + 1 for uid, base in entry.bases.items()})


def _outcome_of(entry: Entry, done: set[bytes]) -> Outcome:
    return _committed(entry) if entry.id in done else Conflict(tuple(entry.bases))
