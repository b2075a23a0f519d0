"""The default store: an encrypted SQLite database of one file, written by this process alone.

Containers and secrets are two tables. A secret's rowid is its place in stored order: a Put that replaces
keeps it.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.disk import sync_folder
from pykcm.store.interface import (
    Backup,
    Committed,
    Copied,
    Entry,
    Loaded,
    Outcome,
    Pause,
    Refused,
    Rekeyed,
    StoreError,
    StoreUnusableError,
)
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.damage import find_commits, tell_of_damage
from pykcm.store.sqlcipher.database import (
    OWNED,
    SCHEMA_VERSION,
    UnfitError,
    cause,
    check_version,
    connect,
    create,
    file_error,
    has_tickets,
    inspect,
    journal_of,
    set_pragma,
    size_of,
    store_error,
    write_error,
)
from pykcm.store.sqlcipher.key_rotation import needs_recovery, recover
from pykcm.store.sqlcipher.loading import load
from pykcm.store.sqlcipher.pacing import WritePacer
from pykcm.store.sqlcipher.placement import Placement
from pykcm.store.sqlcipher.scanning import CCacheCounter, uids_with_ccaches
from pykcm.store.sqlcipher.statements import Applier
from pykcm.store.sqlcipher.wal import WriteAheadLog
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

# Most are containers of credentials, of which nothing is read but the path.
_CONTAINERS_AT_A_TIME = 500

_BEFORE_ALL = (-(2**63), "")

# Fails where the database cannot be read.
_LOOK = "SELECT id FROM containers LIMIT 1"

# Changes nothing, and writes a page.
_COVER = f"PRAGMA user_version = {SCHEMA_VERSION}"

# Until it is tried again, in seconds.
_COVERED_AGAIN_AFTER = 1.0
_OPENED_AGAIN_AFTER = 1.0

# How it is set, and how it reads then.
_SYNCHRONOUS = {"full": ("FULL", 2), "normal": ("NORMAL", 1)}


class CommitObserver(Protocol):
    """Is told what is committed while a copy of the database is made."""

    def committed(self, changes: Sequence[SecretChange]) -> None:
        """These changes are durable."""

    def fail(self) -> None:
        """`committed` has raised; it is not called again."""


class SQLCipherStore:
    """Implements Store on the database at `path`, created where it is missing.

    `durability`: "full" survives a loss of power, "normal" a crash of the process.
    Raises StoreUnusableError, in which case nothing has been changed.
    """

    persistent = True

    def __init__(self, path: Path, key: Key, durability: str = "full") -> None:
        self.path = path
        self.key = key
        # Only a copy that is being made wants to know.
        self.commit_observer: CommitObserver | None = None
        self.pacer: WritePacer | None = None
        self._folder = path.parent
        self._durability = durability
        self._covering: asyncio.TimerHandle | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._is_opening_again = False
        self._reading: int | None = None
        self._replaced: list[int] = []
        self._version = 0
        self._counter = CCacheCounter(self._query)
        try:
            # A journal is left by a crash alone.
            commits = find_commits(path) if size_of(journal_of(path)) else None
            if needs_recovery(path):
                self.key = recover(path, key)
            if has_tickets(path):
                inspect(path, self.key, ignores_journal=commits is not None and not commits.is_readable)
            else:
                create(path, self.key)
                _tell_created(path, key)
            self._open()
            if commits is not None:
                tell_of_damage(path, self._db, commits)
        except UnfitError as error:
            raise StoreUnusableError(f"{path}: {error}") from None
        except sqlcipher.Error as error:
            raise StoreUnusableError(f"{path}: {cause(error)}") from error
        except OSError as error:
            raise StoreUnusableError(f"{error.filename or path}: {error.strerror}") from error

    def _open(self) -> None:
        """Raises sqlcipher.Error, UnfitError, OSError; then there is no connection, or the one before."""
        db = connect(self.path, self.key, OWNED)
        try:
            # Where SQLite could not open the file for writing it would make a file of shared memory.
            db.executescript(f"BEGIN; {_COVER}; ROLLBACK")
            set_pragma(db, "journal_mode", "WAL", "wal")
            set_pragma(db, "synchronous", *_SYNCHRONOUS[self._durability])
            set_pragma(db, "secure_delete", "ON", 1)
            set_pragma(db, "temp_store", "MEMORY", 2)
            check_version(db)
            placement = Placement(self.path)
        except BaseException:
            db.close()
            raise
        # Not before: nothing may be committed by a connection that is half set up.
        self._db = db
        self._applier = Applier(db)
        self._placement = placement
        self._journal = WriteAheadLog(db, self.path, self.key, self.descriptor, self._has_copied_journal)

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        version = self._version
        return Loaded(version, await load(self._query, uid, pause))

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        if len(entries) > 1:
            # If that fails, each entry gets an attempt of its own: they share no failure.
            with suppress(Exception):
                self._commit([change for entry in entries for change in entry.changes])
                return [self._committed(entry) for entry in entries]
        return [self._commit_alone(entry) for entry in entries]

    def _commit_alone(self, entry: Entry) -> Outcome:
        try:
            self._commit(entry.changes)
        except StoreError as error:
            return Refused(error)
        except Exception as error:
            log.exception("%s: changes cannot be made, by an error in pykcm", self.path)
            return Refused(StoreError(f"an error in pykcm: {type(error).__name__}"))
        return self._committed(entry)

    def _committed(self, entry: Entry) -> Committed:
        return Committed(dict.fromkeys(entry.bases, self._version))

    async def outcome(self, entry: Entry) -> NoReturn:
        # After an error in pykcm alone: the store itself always knows.
        raise StoreError(f"{self.path}: it is unknown whether a change was committed")

    def _commit(self, changes: Sequence[SecretChange]) -> None:
        observer = self.commit_observer
        self._check_open()
        self._placement.check()
        db = self._db
        may_be_written = False
        try:
            db.execute("BEGIN IMMEDIATE")
            counted = [(change, more) for change in changes if (more := self._applier.apply(change))]
            may_be_written = True
            db.execute("COMMIT")
        except sqlcipher.Error as error:
            self._roll_back()
            if may_be_written:
                self._cover()
            raise write_error(error, self.path) from error
        except BaseException:
            self._roll_back()
            raise
        self._version += 1
        for change, more in counted:
            self._counter.committed(change, more)
        if observer is not None:
            self._tell(observer, changes)

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> "asyncio.Future[None] | None":
        if self.pacer is None:
            return None
        try:
            return self.pacer.delay(changes, size)
        except Exception:
            # Better a copy that may have to be given up than a commit that fails for it.
            log.exception("%s: commits do not wait for its copy, by an error in pykcm", self.path)
            self.end_pacing()
            return None

    def _has_copied_journal(self) -> None:
        if self.commit_observer is None:
            self.end_pacing()

    def end_pacing(self) -> None:
        """No copy is made any more: nobody waits for it."""
        if self.pacer is not None:
            self.pacer.end()
            self.pacer = None

    def _tell(self, observer: CommitObserver, changes: Sequence[SecretChange]) -> None:
        """Tell what was committed. That is durable: an error of the observer's ends only the observer."""
        try:
            observer.committed(changes)
        except Exception:
            log.exception("%s: its copy is given up by an error in pykcm; commits go on", self.path)
            self.commit_observer = None
            with suppress(Exception):
                observer.fail()

    def _check_open(self) -> None:
        if self._opening is not None:
            raise StoreError(f"{self.path}: could not be opened again after the change of keys; see the log")

    def _roll_back(self) -> None:
        # What was remembered may never have been there.
        self._applier.forget()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _cover(self) -> None:
        """Write over what the journal has of a commit that was refused, now or as soon as it can be done.

        When the sync fails, SQLite forgets the commit, but in the journal it is whole: a crash before
        something else is written in that place would bring it back. The next commit may write nothing.
        """
        self._stop_covering()
        if not self._covers():
            self._covering = asyncio.get_running_loop().call_later(_COVERED_AGAIN_AFTER, self._cover)

    def _covers(self) -> bool:
        try:
            self._db.execute(_COVER)
        except sqlcipher.Error:
            return False
        return True

    def _stop_covering(self) -> None:
        if self._covering is not None:
            self._covering.cancel()
            self._covering = None

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
        try:
            rows: list[Any] = self._db.execute(statement, parameters).fetchall()
        except sqlcipher.Error as error:
            raise store_error(error, self.path) from error
        return rows

    # For copies of the database, which are made while it is in use

    def backup(self) -> AbstractContextManager[Backup]:
        # Imported by those who ask for it: the daemon's start counts.
        from pykcm.store.sqlcipher.backup import backup  # noqa: PLC0415

        return backup(self)

    def rekey(self, raw: bytes | None) -> AsyncGenerator[Copied | Rekeyed, None]:
        from pykcm.store.sqlcipher.rekey import rekey  # noqa: PLC0415

        return rekey(self, raw)

    def check_place(self) -> None:
        """Raises StoreError where the open database is not the one that has its name any more."""
        self._check_open()
        self._placement.check(at_once=True)

    @property
    def is_copying_journal(self) -> bool:
        """Whether a journal that was released is still copied into the database."""
        return self._journal.is_copying

    @property
    def journal(self) -> WriteAheadLog:
        """The open database's; raises StoreError where that is not open."""
        self._check_open()
        return self._journal

    def descriptor(self) -> int:
        """Of the database file, to read from, for as long as the store is open; raises OSError."""
        # Closing it would end the locks of all of this process's descriptors of the file, as POSIX has it.
        if self._reading is None:
            self._reading = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._reading

    def replace(self, other: Path, key: Key) -> None:
        """Go on with the database at `other`, which takes this one's name; raises StoreError.

        `key` tells then whether the name was taken. The old file is there until `close_replaced`.
        """
        self.check_place()
        self.journal.empty()
        self._close()
        try:
            # A journal that came back after a loss of power would be taken for the other one's.
            journal_of(self.path).unlink(missing_ok=True)
            sync_folder(self._folder)
            # The file system gives the old file's blocks back when nobody has it open any more, which takes
            # long: not in the rename, for which everybody waits.
            self._replaced.append(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            other.rename(self.path)
            self.key = key
            sync_folder(self._folder)
        except OSError as error:
            raise file_error(error, self.path) from error
        finally:
            self._open_again()

    def close_replaced(self) -> None:
        """Let go of files that were replaced, which takes long if they are large."""
        while self._replaced:
            os.close(self._replaced.pop())

    def _open_again(self) -> None:
        self._opening = None
        try:
            self._open()
        except (sqlcipher.Error, UnfitError, OSError) as error:
            # Meanwhile what needs the disk is refused.
            if not self._is_opening_again:
                log.critical(
                    "%s: cannot be opened again after the change of keys: %s; it is tried every %g s, and "
                    "requests that need it are refused until then: see to the disk (space, permissions)",
                    *(self.path, error, _OPENED_AGAIN_AFTER),
                )
            self._is_opening_again = True
            self._opening = asyncio.get_running_loop().call_later(_OPENED_AGAIN_AFTER, self._open_again)
            return
        if self._is_opening_again:
            log.warning("%s: is open again", self.path)
        self._is_opening_again = False

    def close(self) -> None:
        if self._covering is not None:
            self._covers()
        self._close()
        self.close_replaced()

    def _close(self) -> None:
        self._stop_covering()
        if self.commit_observer is None:
            self.end_pacing()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._journal.close()
        self._db.close()
        if self._reading is not None:
            os.close(self._reading)
            self._reading = None


def _tell_created(path: Path, key: Key) -> None:
    if key.is_new:
        log.info("%s: a new, empty database was made, with a new key, %s", path, key.source)
    else:
        log.warning(
            "%s: there was no database, and a new, empty one was made, although its key, %s, is older: if "
            "there were tickets, the database was removed, or this is another folder than before; to have "
            "them again, stop the daemon and put the database back",
            *(path, key.source),
        )
