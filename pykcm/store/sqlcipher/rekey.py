"""The change of keys while the database is in use.

A copy of the database gets the new key. Changes that are committed meanwhile are repeated in the copy. When
hardly any are missing, the copy takes the database's name, in one iteration of the event loop.
"""

import asyncio
import errno
import os
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Protocol

from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.copies import Copied, Rekeyed, StoreBusyError, UnsupportedError
from pykcm.store.disk import KEY_SIZE, sync_file
from pykcm.store.interface import StoreError
from pykcm.store.keys import Key, is_credential, is_replaceable
from pykcm.store.sqlcipher.database import connect, file_error, set_pragma, size_of, write_error
from pykcm.store.sqlcipher.key_rotation import (
    finish,
    pending_key_of,
    remove_pending_key,
    remove_unfinished,
    unfinished_of,
    write_pending_key,
)
from pykcm.store.sqlcipher.online_copy import CopiedStore, HeldCheckpoint, Worker, copy_file
from pykcm.store.sqlcipher.statements import Applier

# Seconds between two reports of the copy's progress.
_LOOK = 0.1

# In seconds: the time for repeating changes in one iteration of the event loop. It grows up to the longest
# while each iteration brings more changes than the last one could repeat.
_SLICE = 0.005
_LONGEST_SLICE = 0.04

# The share of copying in the progress. The check of the copy follows.
_SHARE_OF_COPYING = 0.75

# In bytes: the room that the disk must have in addition to the copy, for changes meanwhile.
_ROOM_LEFT = 32 * 1024 * 1024


class RekeyedStore(CopiedStore, Protocol):
    """The part of a store that changing its key needs."""

    def check_place(self) -> None:
        """Raise StoreError if the open database no longer has its name."""

    def writing(self) -> AbstractAsyncContextManager[None]:
        """Within `async with`, nothing is committed; raises StoreError."""

    def replace(self, other: Path, key: Key) -> None:
        """Give this database's name to the one at `other`, and open that; raises StoreError."""

    def close_replaced(self) -> None:
        """Close the replaced files, which takes long if they are large."""


async def rekey(store: RekeyedStore, raw: bytes | None) -> AsyncGenerator[Copied | Rekeyed, None]:
    """Change the key as Copies describes it."""
    store.check_place()
    _check_possible(store, raw)
    path, old = store.path, store.key
    new = Key(raw or secrets.token_bytes(KEY_SIZE), pending_key_of(path))
    copy_path = unfinished_of(path)
    async with HeldCheckpoint(store, records=True) as checkpoint:
        size = size_of(path)
        try:
            _check_room(path.parent, size)
            # An earlier change of keys may have left files that it could not remove.
            remove_unfinished(path)
            remove_pending_key(path)
            write_pending_key(path, old, new.raw)
            async with Worker(partial(copy_file, path, old, copy_path, new)) as copying:
                while not await copying.is_done(_LOOK):
                    checkpoint.check()
                    checkpoint.advance(_SHARE_OF_COPYING * min(1.0, copying.progress.done / size))
                    yield Copied(copying.progress.done, size, tuple(checkpoint.pacer.slowed))
            checkpoint.release()
            await store.wal.copied()
            with closing(connect(copy_path, new, "rw")) as db:
                copy = _Copy(db)
                await copy.follow(checkpoint)
                # The last sync must be short.
                copy.empty_wal()
                await asyncio.to_thread(sync_file, copy_path)
                await copy.follow(checkpoint)
                async with store.writing():
                    begun = time.perf_counter()
                    copy.complete(checkpoint)
                    db.close()
                    store.replace(copy_path, new)
        except sqlcipher.Error as error:
            raise write_error(error, copy_path) from error
        except OSError as error:
            raise file_error(error, path) from error
        finally:
            if store.key is old:
                _remove_files(path)
        pause = time.perf_counter() - begun
        # A cancelled caller must not interrupt this.
        await asyncio.shield(asyncio.ensure_future(_finish(store, old)))
    key = store.key.source
    yield Rekeyed(key, old.source, is_credential(old), key != old.source, pause)


async def _finish(store: RekeyedStore, old: Key) -> None:
    # In a thread, because these take long and no request waits for them.
    await asyncio.to_thread(store.close_replaced)
    store.key = await asyncio.to_thread(finish, store.path, old, store.key.raw)


def _check_possible(store: RekeyedStore, raw: bytes | None) -> None:
    if store.key.source == pending_key_of(store.path):
        raise StoreBusyError(
            "the last change of keys has not come to its end: put its key where the old one came from, and "
            "start the daemon with it"
        )
    if raw is None and not is_replaceable(store.key):
        raise UnsupportedError(
            f"the key comes from {store.key.source}, which the daemon cannot replace: give it a new key"
        )
    if raw is not None and len(raw) != KEY_SIZE:
        raise UnsupportedError(f"a key of {len(raw)} bytes; it must be exactly {KEY_SIZE} raw bytes")
    if raw == store.key.raw:
        raise UnsupportedError("this is the key that the database has")


def _check_room(folder: Path, size: int) -> None:
    status = os.statvfs(folder)
    room = status.f_bavail * status.f_frsize
    if room < size + _ROOM_LEFT:
        raise StoreError(
            f"no room: {folder} has {room} bytes left, and the copy with the new key needs {size}, and "
            f"{_ROOM_LEFT} for changes meanwhile",
            errno.ENOSPC,
        )


def _remove_files(path: Path) -> None:
    # The next start removes files that cannot be removed now.
    try:
        remove_unfinished(path)
        remove_pending_key(path)
    except OSError:
        return


class _Copy:
    """The copy of the database, in which later changes are repeated."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._applier = Applier(db)
        # Nothing ever uses an incomplete copy.
        set_pragma(db, "synchronous", "OFF", 0)
        set_pragma(db, "secure_delete", "ON", 1)

    async def follow(self, checkpoint: HeldCheckpoint) -> None:
        """Repeat all recorded changes, in slices of time between which other tasks run.

        Returns in the same iteration of the event loop in which no change was missing.
        """
        slice_ = _SLICE
        while not self._catch_up(checkpoint, slice_):
            checkpoint.check()
            checkpoint.pacer.look()
            slice_ = min(2 * slice_, _LONGEST_SLICE)
            await asyncio.sleep(0)
        checkpoint.check()

    def complete(self, checkpoint: HeldCheckpoint) -> None:
        """Repeat all missing changes, and make the copy durable."""
        checkpoint.check()
        set_pragma(self._db, "synchronous", "FULL", 2)
        self._catch_up(checkpoint, inf)
        self.empty_wal()

    def _catch_up(self, checkpoint: HeldCheckpoint, seconds: float) -> bool:
        """Repeat recorded changes for this long; returns whether these were all."""
        end = time.perf_counter() + seconds
        self._db.execute("BEGIN IMMEDIATE")
        while has_time := time.perf_counter() < end:
            change = checkpoint.take()
            if change is None:
                break
            self._applier.apply(change)
        self._db.execute("COMMIT")
        return has_time

    def empty_wal(self) -> None:
        [(is_busy, *_)] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if is_busy:
            raise StoreError("the write-ahead log of the copy cannot be copied into it")
