"""The shared store: each UID's rows have a version, and a commit names the one that it is based on."""

import asyncio
import errno
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from pykcm.store.interface import (
    Blocked,
    Committed,
    Conflict,
    Entry,
    Loaded,
    Outcome,
    Pause,
    Refused,
    Sharing,
    StoreError,
    Unknown,
)
from pykcm.store.postgresql import statements
from pykcm.store.postgresql.database import COMMITS_AT_ONCE, Database
from pykcm.store.postgresql.failures import LostAnswerError, PartialConflictError, RepeatError
from pykcm.store.postgresql.freshness import StrictFreshness
from pykcm.store.postgresql.keyring import Keyring, KeySource
from pykcm.store.postgresql.listener import NotifiedFreshness
from pykcm.store.postgresql.pipelined_connection import Connection
from pykcm.store.postgresql.rows import (
    Container,
    Row,
    StoredRow,
    row_changes,
    secrets_of,
    sources_of_renames,
)
from pykcm.store.postgresql.sealing import NIL, Place, Sealer, UnknownKeyError, UnsealError
from pykcm.store.postgresql.statements import Sealed, commit_statements
from pykcm.store.tree import Expired, SecretChange

log = logging.getLogger(__name__)

T = TypeVar("T")

# Rows that are unsealed before others have their turn.
_ROWS_AT_ONCE = 256

# After so many commits of this host, the ids of old ones are removed: at most the second number.
_COMMITS_KEPT = 256
_COMMITS_REMOVED = 4096

# In seconds: to count is much work, and a thousand hosts are asked for statistics four times a minute.
_COUNT_KEPT = 60.0

# In seconds, between attempts to commit an entry that another transaction blocks; a part of it is random.
_PAUSE = 0.02

# Of an entry that others' transactions were in the way of.
_ATTEMPTS = 5


class PostgreSQLStore:
    """Implements Store on a database that other hosts use, too."""

    persistent = True
    commits_at_once = COMMITS_AT_ONCE
    # Whether this host's clock and the database's have shown the same when the store was opened.
    clock_agrees = False

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        source: KeySource | None = None,
        *,
        listens: bool = False,
    ) -> None:
        self.database = database
        self.keyring = Keyring(database, sealer, source)
        self._sealer = sealer
        self.freshness = (NotifiedFreshness if listens else StrictFreshness)(database, self)
        # Whether some host listens for notifications, as the last commit has seen it. The first one always
        # notifies in its transaction: this host may end before it could do so afterwards.
        self._notifies = True
        # When entries that other transactions block are refused, by id, in the event loop's time.
        self._blocked: dict[bytes, float] = {}
        # For statistics: conflicts, questions for versions, and what had become of commits without an answer.
        self._conflicts = self._look_ups = 0
        self._found_out = {"made": 0, "not_made": 0}
        # The number of ccaches, and until when it is recent.
        self._count: tuple[int, float] | None = None
        self._commits = 0
        self._tidying: asyncio.Task[None] | None = None

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        return await self._with_all_keys(partial(self._load, uid, pause))

    async def _load(self, uid: int, pause: Pause | None, is_last: bool) -> Loaded:
        begun = self.freshness.begin()
        found = await self._query(statements.LOAD, {"uid": uid, "key": self._sealer.key.id})
        version = found[0][0] or 0
        self.freshness.confirm(begun, {uid: version})
        if not found[0][5]:
            await self.keyring.renew()
        rows = []
        for number, (_, ccache, item, sealed, expires, _) in enumerate(found, 1):
            if sealed is not None:
                rows.append(self._unseal(Place(uid, ccache, item), sealed, expires, is_last))
            if pause is not None and not number % _ROWS_AT_ONCE:
                await pause()
        return Loaded(version, secrets_of(rows))

    async def _with_all_keys(self, read: Callable[[bool], Awaitable[T]]) -> T:
        """The result of `read`; after an UnknownKeyError it is called again, with True. Raises StoreError.

        Another host may have begun a rekey, or have ended one and sealed the row again.
        """
        try:
            return await read(False)
        except UnknownKeyError:
            # Now this host has all keys that the others use, or is refused.
            await self.keyring.renew()
            return await read(True)

    def _unseal(self, place: Place, sealed: bytes, expires: int | None, is_last: bool) -> StoredRow:
        """The row; a damaged one has no value. Raises UnknownKeyError, if it is not the last attempt."""
        try:
            return StoredRow(place, self._sealer.unseal(place, sealed, expires), expires)
        except UnsealError as error:
            if isinstance(error, UnknownKeyError) and not is_last:
                raise
            return StoredRow(place, b"", expires, str(error))

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> None:
        return None

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome | Blocked]:
        outcomes: dict[int, Outcome | Blocked] = {}
        together = _without_common_uids(entries)
        if len(together) > 1:
            outcomes = await self._commit_together([(each, entries[each]) for each in together])
            alone = [each for each in together if each not in outcomes]
            tried_again = await asyncio.gather(*(self._commit_alone(entries[each]) for each in alone))
            outcomes.update(zip(alone, tried_again, strict=True))
        for number, entry in enumerate(entries):
            if number not in outcomes:
                outcomes[number] = await self._commit_alone(entry)
        self._conflicts += sum(type(outcome) is Conflict for outcome in outcomes.values())
        return [self._limit_blocked(entry, outcomes[number]) for number, entry in enumerate(entries)]

    def _limit_blocked(self, entry: Entry, outcome: Outcome | Blocked) -> Outcome | Blocked:
        """Refuse an entry that was blocked for the time limit."""
        if type(outcome) is not Blocked:
            self._blocked.pop(entry.id, None)
            return outcome
        now = asyncio.get_running_loop().time()
        if now < self._blocked.setdefault(entry.id, now + self.database.timeout):
            return outcome
        del self._blocked[entry.id]
        return Refused(
            StoreError(f"{self.database.name}: another transaction holds these ccaches", errno.ETIMEDOUT)
        )

    async def _commit_together(self, entries: Sequence[tuple[int, Entry]]) -> dict[int, Outcome | Blocked]:
        """The outcomes by number; none where they have to be committed one by one."""
        try:
            sealed = [await self._prepare(entry) for _, entry in entries]
            found = await self._run(sealed)
        except (RepeatError, StoreError):
            # Each gets an attempt of its own: they share no failure.
            return {}
        except LostAnswerError as lost:
            return {number: Unknown(lost.error) for number, _ in entries}
        return {number: _outcome_of(entry, found) for number, entry in entries}

    async def _commit_alone(self, entry: Entry) -> Outcome | Blocked:
        if not entry.bases:
            return Committed()
        end = asyncio.get_running_loop().time() + self.database.timeout
        for attempt in range(_ATTEMPTS):
            try:
                found = await self._run([await self._prepare(entry)], end if attempt else None)
            except RepeatError:
                continue
            except PartialConflictError:
                break
            except LostAnswerError as lost:
                return Unknown(lost.error)
            except StoreError as error:
                return Refused(error)
            return _outcome_of(entry, found)
        # The engine reads again, which is right whatever was in the way.
        return Conflict(tuple(entry.bases))

    async def _prepare(self, entry: Entry) -> Sealed:
        """Raises StoreError, LostAnswerError."""
        renamed = {
            # A commit has no task of its own, which psycopg needs.
            source: await asyncio.ensure_future(self._with_all_keys(partial(self._read, source)))
            for source in sources_of_renames(entry.changes)
        }
        changes = row_changes(entry.changes, renamed)
        return Sealed(
            *(entry.id, dict(entry.bases), changes, entry.added, entry.most_ccaches), entry.changes_tgts
        )

    async def _read(self, container: Container, is_last: bool) -> dict[bytes, Row]:
        found = await self._query(
            statements.LOAD_CREDENTIALS, {"uid": container.uid, "ccache": container.ccache, "nil": NIL}
        )
        rows = [
            self._unseal(Place(container.uid, container.ccache, item), sealed, None, is_last)
            for item, sealed in found
        ]
        for place, _, _, damage in rows:
            if damage:
                raise StoreError(
                    f"{self.database.name}: a row of UID {place.uid} (ccache {place.ccache.hex()}, item "
                    f"{place.item.hex()}) cannot be unsealed: {damage}"
                )
        return {row.place.item: Row(row.value) for row in rows}

    async def _run(self, entries: Sequence[Sealed], end: float | None = None) -> dict[bytes, bool]:
        """By the ids of entries: True for those that were committed, False for those that are blocked."""
        begun = self.freshness.begin()
        rows = await self._transact(entries, end)
        found = {id_: is_done for id_, is_done, _ in rows}
        if None in found:
            # The key was replaced, or is not the other hosts'.
            await self.keyring.renew()
            rows = await self._transact(entries, end)
            found = {id_: is_done for id_, is_done, _ in rows}
            if None in found:
                raise self.keyring.refusal()
        done = [entry for entry in entries if found.get(entry.id)]
        if done:
            self.freshness.confirm(
                begun, {uid: base + 1 for entry in done for uid, base in entry.bases.items()}
            )
            listened = rows[0][2]
            if listened and not self._notifies:
                # It is a host's first wish since this one has last committed.
                with suppress(StoreError):
                    await asyncio.ensure_future(self._query(*statements.notification(entries)))
            self._notifies = listened
        self._commits += len(done)
        if self._commits >= _COMMITS_KEPT and self._tidying is None:
            self._commits = 0
            self._tidying = asyncio.get_running_loop().create_task(self._remove_commits())
        return {id_: bool(is_done) for id_, is_done in found.items()}

    async def _transact(self, entries: Sequence[Sealed], end: float | None) -> list[Any]:
        todo = commit_statements(entries, self._sealer)
        if self._notifies:
            todo.append(statements.notification(entries))
        return await self.database.transact(todo, end=end)

    async def _remove_commits(self) -> None:
        """Remove ids that nobody asks for any more. The work grows with the commits, not with the hosts."""
        try:
            await self.database.repeatable(partial(_execute, statements.REMOVE_COMMITS, (_COMMITS_REMOVED,)))
        except StoreError as error:
            log.warning("ids of old commits were not removed, and are removed later: %s", error)
        finally:
            self._tidying = None

    @property
    def sharing(self) -> Sharing:
        return self

    async def may_reap(self, seconds: float) -> bool:
        # A rekey may have begun or ended. A host that is refused leaves the work to the others.
        await self.keyring.renew()
        taken = await self._query(statements.TAKE_LEASE, {"name": "reaper", "seconds": seconds})
        return bool(taken)

    async def may_renew(self, holder: bytes, seconds: float) -> bool:
        return bool(await self._query(statements.KEEP_RENEWALS, {"holder": holder, "seconds": seconds}))

    async def end_renewals(self, holder: bytes) -> None:
        await self._query(statements.END_RENEWALS, {"holder": holder})

    async def commits_of_tgts(self, seconds: float) -> dict[bytes, list[int]]:
        return dict(await self._query(statements.COMMITS_OF_TGTS, {"seconds": seconds}))

    async def versions_after(self, uid: int, limit: int) -> list[tuple[int, int]]:
        return [(uid, version) for uid, version in await self._query(statements.VERSIONS_AFTER, (uid, limit))]

    def statistics(self) -> dict[str, Any]:
        return {
            **self.database.statistics(),
            "conflicts": self._conflicts,
            "look_ups": self._look_ups,
            "found_out": dict(self._found_out),
            "key": self._sealer.key.id.hex(),
        }

    async def outcome(self, entry: Entry) -> Committed | None:
        find_out = partial(_fetch, statements.SETTLE, (entry.id,))
        end = asyncio.get_running_loop().time() + self.database.timeout
        [(is_made,)] = await self.database.repeatable(find_out, end=end)
        self._found_out["made" if is_made else "not_made"] += 1
        return _committed(entry) if is_made else None

    def ask_versions(self, uids: Sequence[int], answered: Callable[[Mapping[int, int] | None], None]) -> bool:
        """As LookUp describes it. Where this host's key does not seal, `versions` says so."""

        def take(rows: list[Any] | None) -> None:
            found = None if rows is None else dict(rows)
            answered(None if found is None or statements.NO_UID in found else found)

        parameters = {"uids": uids, "key": self._sealer.key.id}
        is_sent = self.database.ask((statements.VERSIONS, parameters), take)
        self._look_ups += is_sent
        return is_sent

    async def versions(self, uids: Sequence[int]) -> dict[int, int]:
        """The newest version of each UID; raises StoreError, at once while the database is away."""
        look_up = partial(_fetch, statements.VERSIONS, {"uids": list(uids), "key": self._sealer.key.id})
        self._look_ups += 1
        found: dict[int, int] = dict(await self.database.repeatable(look_up, waits=False))
        if statements.NO_UID in found:
            await self.keyring.renew()
        return {uid: found.get(uid, 0) for uid in uids}

    async def uids(self) -> list[int]:
        return [uid for (uid,) in await self._query(statements.UIDS, ())]

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        return await self._with_all_keys(partial(self._expired, until, after, limit))

    async def _expired(self, until: int, after: Expired | None, limit: int, is_last: bool) -> list[Expired]:
        begin = (
            (-(2**63), NIL) if after is None else (after.expires, bytes.fromhex(after.name.partition("-")[0]))
        )
        expired = []
        for expires, ccache, uid, sealed in await self._query(statements.EXPIRED, (until, *begin, limit)):
            [secret] = secrets_of([self._unseal(Place(uid, ccache), sealed, expires, is_last)])
            expired.append(Expired(expires, secret.name, uid))
        return expired

    async def uids_without_expiry(self, after: int) -> tuple[list[int], int | None]:
        # No older version has written anything: this store is newer.
        return [], None

    async def count_ccaches(self) -> int:
        [(number,)] = await self._query(statements.COUNT, ())
        return int(number)

    async def count_recently(self) -> int:
        loop = asyncio.get_running_loop()
        if self._count is None or self._count[1] < loop.time() or self.database.presence.is_away:
            self._count = (await self.count_ccaches(), loop.time() + _COUNT_KEPT)
        return self._count[0]

    async def _query(self, statement: str, parameters: Any) -> list[Any]:
        """Raises StoreError."""
        return await self.database.repeatable(partial(_fetch, statement, parameters))

    def close(self) -> None:
        self.freshness.close()
        if self._tidying is not None:
            self._tidying.cancel()
        self.database.close()


async def _fetch(statement: str, parameters: Any, connection: Connection) -> list[Any]:
    cursor = await connection.execute(statement, parameters)
    return await cursor.fetchall()


async def _execute(statement: str, parameters: Any, connection: Connection) -> None:
    await connection.execute(statement, parameters)


def _without_common_uids(entries: Sequence[Entry]) -> list[int]:
    """The numbers of entries of one UID each that can share a statement."""
    uses = Counter(uid for entry in entries for uid in entry.bases)
    return [
        number
        for number, entry in enumerate(entries)
        if len(entry.bases) == 1
        and all(uses[uid] == 1 for uid in entry.bases)
        and not (entry.most_ccaches and entry.added > 0)
    ]


def _committed(entry: Entry) -> Committed:
    return Committed({uid: base + 1 for uid, base in entry.bases.items()})


def _outcome_of(entry: Entry, found: dict[bytes, bool]) -> Outcome | Blocked:
    if entry.id not in found:
        return Conflict(tuple(entry.bases))
    return _committed(entry) if found[entry.id] else Blocked(_PAUSE * random.uniform(0.5, 1.0))  # noqa: S311
