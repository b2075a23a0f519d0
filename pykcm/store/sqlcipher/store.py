"""The default store: an encrypted SQLite database, which only this process writes.

Containers and secrets are two tables. A secret's rowid is its place in stored order, and a Put that replaces
a secret keeps it.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.copies import StoreBusyError
from pykcm.store.disk import sync_folder
from pykcm.store.interface import (
    Committed,
    Entry,
    Loaded,
    Outcome,
    Pause,
    Refused,
    StoreError,
    StoreUnusableError,
)
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.damage import find_commits, report_damage
from pykcm.store.sqlcipher.database import (
    UnfitError,
    cause,
    connect_to_read,
    connect_to_write,
    create,
    file_error,
    has_tickets,
    inspect,
    size_of,
    store_error,
    wal_of,
)
from pykcm.store.sqlcipher.disk_thread import DiskThread
from pykcm.store.sqlcipher.key_rotation import needs_recovery, recover
from pykcm.store.sqlcipher.loading import load
from pykcm.store.sqlcipher.pacing import WritePacer
from pykcm.store.sqlcipher.placement import Placement
from pykcm.store.sqlcipher.scanning import CCacheCounter, uids_with_ccaches
from pykcm.store.sqlcipher.wal import WriteAheadLog
from pykcm.store.sqlcipher.writer import Writer
from pykcm.store.tree import (
    Expired,
    SecretChange,
    is_ccaches_container,
    uid_of_container,
)

log = logging.getLogger(__name__)

# CROSS JOIN: in the order of the index, without sorting.
_EXPIRED = """
    SELECT expires, name, path FROM secrets CROSS JOIN containers ON containers.id = secrets.container
    WHERE expires <= ? AND (expires, name) > (?, ?)
    ORDER BY expires, name LIMIT ?
"""

_CONTAINERS = "SELECT id, path FROM containers WHERE id > ? ORDER BY id LIMIT ?"
_HAS_LASTING = "SELECT EXISTS (SELECT 1 FROM secrets WHERE container = ? AND expires IS NULL)"

# Most are containers of credentials: only their paths are read.
_CONTAINERS_AT_A_TIME = 500

_BEFORE_ALL = (-(2**63), "")

# Fails if the database cannot be read.
_LOOK = "SELECT id FROM containers LIMIT 1"

# Seconds until the next attempt to open the database.
_OPENED_AGAIN_AFTER = 1.0


class CommitObserver(Protocol):
    """A copy of the database that is being made, and receives the commits meanwhile."""

    pacer: WritePacer

    def committed(self, changes: Sequence[SecretChange]) -> None:
        """These changes are durable."""

    def fail(self) -> None:
        """Give up: `committed` has raised an exception, and is not called again."""


class SQLCipherStore:
    """Implements Store on the database at `path`, which is created if it is missing.

    `durability`: commits survive a loss of power ("full") or a crash of the process ("normal"). Raises
    StoreUnusableError, and then nothing has changed.
    """

    persistent = True
    commits_at_once = 1
    freshness = None
    sharing = None

    def __init__(self, path: Path, key: Key, durability: str = "full") -> None:
        self.path = path
        self.key = key
        self._durability = durability
        self._version = 0
        self._observer: CommitObserver | None = None
        self._pacer: WritePacer | None = None
        self._thread = DiskThread()
        self._opening: asyncio.TimerHandle | None = None
        self._is_opening_again = False
        self._descriptor: int | None = None
        self._replaced: list[int] = []
        self._counter = CCacheCounter(self._query, self._thread.lock)
        try:
            # Only a crash leaves a write-ahead log.
            commits = find_commits(path) if size_of(wal_of(path)) else None
            if needs_recovery(path):
                self.key = recover(path, key)
            if has_tickets(path):
                inspect(path, self.key, ignores_wal=commits is not None and not commits.is_readable)
            else:
                create(path, self.key)
                _log_creation(path, key)
            self._open()
            if commits is not None:
                report_damage(path, self._db, commits)
        except UnfitError as error:
            raise StoreUnusableError(f"{path}: {error}") from None
        except sqlcipher.Error as error:
            raise StoreUnusableError(f"{path}: {cause(error)}") from error
        except OSError as error:
            raise StoreUnusableError(f"{error.filename or path}: {error.strerror}") from error

    def _open(self) -> None:
        """Open the connections; raises sqlcipher.Error, UnfitError, OSError, and then nothing has changed."""
        with ExitStack() as at_error:
            db = connect_to_write(self.path, self.key, self._durability)
            at_error.callback(db.close)
            reader = connect_to_read(self.path, self.key)
            at_error.callback(reader.close)
            placement = Placement(self.path)
            wal = WriteAheadLog(
                *(db, self.path, self.key, self._thread, self.descriptor, self._has_copied_wal),
                may_extend=self._may_extend_wal,
            )
            writer = Writer(db, self.path, wal, self._thread)
            at_error.pop_all()
        # Only now: a connection that is not fully set up must not commit.
        self._db, self._reader = db, reader
        self._placement, self.wal, self._writer = placement, wal, writer

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        version = self._version
        return Loaded(version, await load(self._query, uid, pause))

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        async with self._thread.lock:
            outcomes = await self._commit_together(entries) if len(entries) > 1 else None
            if outcomes is None:
                # One failed entry must not fail the others: each gets its own attempt.
                outcomes = [await self._commit_alone(entry) for entry in entries]
            await self.wal.maintain()
        return outcomes

    async def _commit_together(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """Commit all entries in one transaction; returns None if that fails."""
        changes = [change for entry in entries for change in entry.changes]
        try:
            await self._commit(changes, sum(entry.size for entry in entries))
        except Exception:  # noqa: BLE001 - each entry's own attempt says why
            return None
        return [self._committed(entry) for entry in entries]

    async def _commit_alone(self, entry: Entry) -> Outcome:
        try:
            await self._commit(entry.changes, entry.size)
        except StoreError as error:
            return Refused(error)
        except Exception as error:
            log.exception("%s: changes are refused because of an error in pykcm", self.path)
            return Refused(StoreError(f"an error in pykcm: {type(error).__name__}"))
        return self._committed(entry)

    def _committed(self, entry: Entry) -> Committed:
        return Committed(dict.fromkeys(entry.bases, self._version))

    async def outcome(self, entry: Entry) -> NoReturn:
        # This happens only after an error in pykcm: the store itself always knows.
        raise StoreError(f"{self.path}: it is unknown whether a change was committed")

    async def _commit(self, changes: Sequence[SecretChange], size: int) -> None:
        self._check_open()
        self._placement.check()
        counted = await self._writer.transact(changes, size)
        self._version += 1
        for change, more in counted:
            self._counter.committed(change, more)
        if self._observer is not None:
            self._notify(self._observer, changes)

    def _notify(self, observer: CommitObserver, changes: Sequence[SecretChange]) -> None:
        """Pass on durable changes. An exception of the observer ends only the observer."""
        try:
            observer.committed(changes)
        except Exception:
            log.exception("%s: its copy is given up because of an error in pykcm; commits go on", self.path)
            self._observer = None
            with suppress(Exception):
                observer.fail()

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> "asyncio.Future[None] | None":
        if self._pacer is None:
            return None
        try:
            return self._pacer.delay(changes, size)
        except Exception:
            # The copy may then have to be given up. That is better than a commit that fails.
            log.exception("%s: commits do not wait for its copy because of an error in pykcm", self.path)
            self._end_pacing()
            return None

    def _may_extend_wal(self) -> bool:
        # While a copy is made, the growth of the file shows how much is written.
        return self._durability == "full" and self._observer is None

    def _has_copied_wal(self) -> None:
        if self._observer is None:
            self._end_pacing()

    def _end_pacing(self) -> None:
        """Let all commits go on: there is no copy any more."""
        if self._pacer is not None:
            self._pacer.end()
            self._pacer = None

    def _check_open(self) -> None:
        if self._opening is not None:
            raise StoreError(f"{self.path}: could not be opened again after the change of keys; see the log")

    async def uids(self) -> list[int]:
        return await uids_with_ccaches(self._query)

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        begin = _BEFORE_ALL if after is None else (after.expires, after.name)
        rows = self._query(_EXPIRED, (until, *begin, limit))
        expired = ((expires, name, uid_of_container(path)) for expires, name, path in rows)
        return [Expired(expires, name, uid) for expires, name, uid in expired if uid is not None]

    async def uids_without_expiry(self, after: int) -> tuple[list[int], int | None]:
        containers = self._query(_CONTAINERS, (after, _CONTAINERS_AT_A_TIME))
        uids = []
        for container, path in containers:
            uid = uid_of_container(path)
            if uid is not None and is_ccaches_container(path):
                [(is_one,)] = self._query(_HAS_LASTING, (container,))
                if is_one:
                    uids.append(uid)
        return uids, containers[-1][0] if len(containers) == _CONTAINERS_AT_A_TIME else None

    async def count_ccaches(self) -> int:
        self._query(_LOOK)
        return await self._counter.count()

    def _query(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        self._check_open()
        db = self._reader if self._thread.is_busy else self._db
        try:
            rows: list[Any] = db.execute(statement, parameters).fetchall()
        except sqlcipher.Error as error:
            raise store_error(error, self.path) from error
        return rows

    # Copies of the database while it is in use (see online_copy.CopiedStore)

    async def attach(self, observer: CommitObserver) -> None:
        """Hold the database file until the write-ahead log is released, and pass on commits.

        Raises StoreError, and StoreBusyError if another copy is being made.
        """
        async with self.writing():
            if self._observer is not None or self.wal.is_copying:
                raise StoreBusyError("a backup or a change of keys is under way: try again when it has ended")
            self.check_place()
            await self._thread.run(self.wal.hold)
            self._observer = observer
            self._pacer = observer.pacer

    async def detach(self) -> None:
        """Forget the observer: the copy has ended and released the write-ahead log."""
        self._observer = None
        await self.wal.copied(even_long=False)
        if not self.wal.is_copying:
            self._end_pacing()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Within `async with`, nothing is committed. Raises StoreError if the database is not open."""
        async with self._thread.lock:
            self._check_open()
            yield

    def check_place(self) -> None:
        """Raise StoreError if the open database no longer has its name."""
        self._check_open()
        self._placement.check(at_once=True)

    def descriptor(self) -> int:
        """Return a descriptor for reading the database file while the store is open; raises OSError."""
        # By POSIX, closing it would end this process's locks on the file, also those of other descriptors.
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._descriptor

    def replace(self, other: Path, key: Key) -> None:
        """Give this database's name to the one at `other`, and open that; raises StoreError.

        Called within `writing`. If `other` got the name, `self.key` is `key`. `close_replaced` frees the old
        file.
        """
        self.check_place()
        self.wal.empty()
        self._close()
        try:
            # After a loss of power the old log could come back, and would be read as the new database's.
            wal_of(self.path).unlink(missing_ok=True)
            sync_folder(self.path.parent)
            # Freeing the old file's blocks takes long. While it is open that does not happen in the rename,
            # for which all requests wait.
            self._replaced.append(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            other.rename(self.path)
            self.key = key
            sync_folder(self.path.parent)
        except OSError as error:
            raise file_error(error, self.path) from error
        finally:
            self._open_again()

    def close_replaced(self) -> None:
        """Close the replaced files, which takes long if they are large."""
        while self._replaced:
            os.close(self._replaced.pop())

    def _open_again(self) -> None:
        self._opening = None
        try:
            self._open()
        except (sqlcipher.Error, UnfitError, OSError) as error:
            if not self._is_opening_again:
                log.critical(
                    "%s: cannot be opened again after the change of keys: %s; pykcmd tries again every %g s, "
                    "and refuses requests that need it until then: see to the disk (space, permissions)",
                    *(self.path, error, _OPENED_AGAIN_AFTER),
                )
            self._is_opening_again = True
            self._opening = asyncio.get_running_loop().call_later(_OPENED_AGAIN_AFTER, self._open_again)
            return
        if self._is_opening_again:
            log.warning("%s: is open again", self.path)
        self._is_opening_again = False

    def close(self) -> None:
        self._thread.close()
        self._close(covers=True)
        self.close_replaced()

    def _close(self, *, covers: bool = False) -> None:
        if self._observer is None:
            self._end_pacing()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self.wal.close()
        self._writer.close(covers=covers)
        # The last connection to be closed copies and removes the write-ahead log.
        self._reader.close()
        self._db.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _log_creation(path: Path, key: Key) -> None:
    if key.is_new:
        log.info("%s: a new, empty database was created, with a new key, %s", path, key.source)
    else:
        log.warning(
            "%s: there was no database, and a new, empty one was created, although its key, %s, is older. If "
            "there were tickets, the database was removed, or the daemon has another folder than before; to "
            "get them back, stop the daemon and put the database back",
            *(path, key.source),
        )
