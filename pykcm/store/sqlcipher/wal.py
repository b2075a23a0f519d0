"""The write-ahead log of an open database: emptied, held, released.

A long one is copied into the database in a thread, so that nobody waits for it.
"""

import asyncio
import concurrent.futures
import os
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.interface import StoreError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import (
    OWNED,
    connect,
    journal_of,
    set_pragma,
    size_of,
    store_error,
    write_error,
)

# SQLite's own default, in pages.
_AUTOCHECKPOINT = 1000

# A longer journal is copied in a thread, in bytes; this much takes about as long as a few commits.
_COPIED_AT_ONCE = 8 * 1024 * 1024

# The second one copies what was committed during the first.
_PASSES = 2


class WriteAheadLog:
    """The journal of the database at `path`, of which `db` is the connection.

    `descriptor`: the store's, of the database; `has_copied` is called when a released journal is copied.
    """

    def __init__(
        self, db: Any, path: Path, key: Key, descriptor: Callable[[], int], has_copied: Callable[[], None]
    ) -> None:
        self._db = db
        self._path = path
        self._key = key
        self._descriptor = descriptor
        self._has_copied = has_copied
        self._copying: concurrent.futures.Future[None] | None = None
        self._copied: asyncio.Future[None]

    @property
    def size(self) -> int:
        """In bytes."""
        return size_of(journal_of(self._path))

    @property
    def is_copying(self) -> bool:
        """Whether a journal that was released is still copied into the database."""
        return self._copying is not None

    def empty(self) -> None:
        """Copy it into the database, which waits for no reader; raises StoreError."""
        try:
            [(is_busy, *_)] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlcipher.Error as error:
            raise write_error(error, self._path) from error
        if is_busy or self.size:
            raise StoreError(f"{self._path}: its journal cannot be copied into it; see to the disk")

    def hold(self) -> None:
        """From now on the database file is left as it is, with all that was committed; raises StoreError."""
        self.empty()
        try:
            set_pragma(self._db, "wal_autocheckpoint", "0", 0)
        except sqlcipher.Error as error:
            raise store_error(error, self._path) from error

    def release(self) -> None:
        """The journal is copied into the database, and from then on as usual."""
        if self.size <= _COPIED_AT_ONCE:
            self._go_on_as_usual()
            return
        executor = concurrent.futures.ThreadPoolExecutor(1)
        try:
            self._copying = executor.submit(copy_journal, self._path, self._key, self._descriptor)
        except RuntimeError:
            # No thread can be had. To copy it here takes long, but it must not grow for ever.
            self._go_on_as_usual()
            return
        finally:
            executor.shutdown(wait=False)
        self._copied = asyncio.wrap_future(self._copying)
        self._copied.add_done_callback(self._end_copying)

    async def copied(self) -> None:
        """Until a journal that was released is copied, as far as it can be."""
        if self._copying is not None:
            await asyncio.wait([self._copied])

    def close(self) -> None:
        """Wait for a copying that is under way; the database is closed next."""
        if self._copying is not None:
            concurrent.futures.wait([self._copying])
            self._copying = None

    def _end_copying(self, copied: asyncio.Future[None]) -> None:
        # Where it has failed the next commits try it again, as usual.
        copied.exception()
        if self._copying is not None:
            self._copying = None
            self._go_on_as_usual()
            self._has_copied()

    def _go_on_as_usual(self) -> None:
        with suppress(sqlcipher.Error):
            self._db.execute(f"PRAGMA wal_autocheckpoint = {_AUTOCHECKPOINT}")
        # As usual, too, where it fails: the next commit tries it again.
        with suppress(StoreError):
            self.empty()


def copy_journal(path: Path, key: Key, descriptor: Callable[[], int]) -> None:
    """While the store is open, which goes on committing; raises sqlcipher.Error, OSError.

    `descriptor`: the store's, of the database; closing one's own would end the store's locks.
    """
    with closing(connect(path, key, OWNED)) as db:
        for _ in range(_PASSES):
            # The only way that never keeps a commit waiting.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            # SQLite leaves that to whoever copies the last of the journal, who would wait for it.
            os.fsync(descriptor())
