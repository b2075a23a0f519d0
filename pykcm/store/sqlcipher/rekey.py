"""Another key for the database, while it is in use.

A copy with the new key is made beside it, what is committed meanwhile is done again there, and in one turn of
the loop, when hardly anything is missing, it takes the database's name.
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
from pykcm.store.disk import sync_file
from pykcm.store.interface import StoreError
from pykcm.store.keys import Key, is_credential, is_replaceable
from pykcm.store.names import KEY_SIZE
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

# In seconds, between two looks at how far the copy has come.
_LOOK = 0.1

# Changes are done again for so long between two turns of the loop, in seconds: at first, and at most, where
# each turn brings more than can be done again in the time of the one before.
_SLICE = 0.005
_LONGEST_SLICE = 0.04

# Behind it, the copy is looked at whole.
_SHARE_OF_COPYING = 0.75

# In bytes: the room that a disk must have besides the copy, for changes made meanwhile.
_ROOM_LEFT = 32 * 1024 * 1024


class RekeyedStore(CopiedStore, Protocol):
    """The store that gets another key."""

    def check_place(self) -> None:
        """Raises StoreError where the open database is not the one that has its name any more."""

    def writing(self) -> AbstractAsyncContextManager[None]:
        """Within `async with`, nothing is committed; raises StoreError."""

    def replace(self, other: Path, key: Key) -> None:
        """Go on with the database at `other`, which takes this one's name; raises StoreError."""

    def close_replaced(self) -> None:
        """Let go of files that were replaced, which takes long if they are large."""


async def rekey(store: RekeyedStore, raw: bytes | None) -> AsyncGenerator[Copied | Rekeyed, None]:
    """As Copies has it."""
    store.check_place()
    _check_possible(store, raw)
    path, old = store.path, store.key
    new = Key(raw or secrets.token_bytes(KEY_SIZE), pending_key_of(path))
    copy_path = unfinished_of(path)
    async with HeldCheckpoint(store, records=True) as still:
        size = size_of(path)
        try:
            _check_room(path.parent, size)
            # Files that an earlier change of keys could not remove.
            remove_unfinished(path)
            remove_pending_key(path)
            write_pending_key(path, old, new.raw)
            async with Worker(partial(copy_file, path, old, copy_path, new)) as copying:
                while not await copying.is_done(_LOOK):
                    still.check()
                    still.advance(_SHARE_OF_COPYING * min(1.0, copying.progress.done / size))
                    yield Copied(copying.progress.done, size, tuple(still.pacer.slowed))
            still.release()
            await store.wal.copied()
            with closing(connect(copy_path, new, "rw")) as db:
                copy = _Copy(db)
                await copy.follow(still)
                # So that little has to be synced in the end.
                copy.empty_wal()
                await asyncio.to_thread(sync_file, copy_path)
                await copy.follow(still)
                async with store.writing():
                    begun = time.perf_counter()
                    copy.complete(still)
                    db.close()
                    store.replace(copy_path, new)
        except sqlcipher.Error as error:
            raise write_error(error, copy_path) from error
        except OSError as error:
            raise file_error(error, path) from error
        finally:
            if store.key is old:
                _take_back(path)
        pause = time.perf_counter() - begun
        # A caller that is cancelled does not end it.
        await asyncio.shield(asyncio.ensure_future(_finish(store, old)))
    key = store.key.source
    yield Rekeyed(key, old.source, is_credential(old), key != old.source, pause)


async def _finish(store: RekeyedStore, old: Key) -> None:
    # In a thread: these take long, and nobody needs to wait for them.
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
            f"no room: {folder} has {room} bytes left, and the copy with the new key needs {size}, beside "
            f"{_ROOM_LEFT} for what is stored meanwhile",
            errno.ENOSPC,
        )


def _take_back(path: Path) -> None:
    # Files that cannot be removed now are removed at the next start.
    try:
        remove_unfinished(path)
        remove_pending_key(path)
    except OSError:
        return


class _Copy:
    """The copy, which does again what was committed since it was taken."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._applier = Applier(db)
        # An incomplete file is never used.
        set_pragma(db, "synchronous", "OFF", 0)
        set_pragma(db, "secure_delete", "ON", 1)

    async def follow(self, still: HeldCheckpoint) -> None:
        """Do again all that is recorded, in slices of time; others have their turn in between.

        Returns in the turn of the loop in which nothing was missing any more.
        """
        slice_ = _SLICE
        while not self._catch_up(still, slice_):
            still.check()
            still.pacer.look()
            slice_ = min(2 * slice_, _LONGEST_SLICE)
            await asyncio.sleep(0)
        still.check()

    def complete(self, still: HeldCheckpoint) -> None:
        """All that is missing, durable."""
        still.check()
        set_pragma(self._db, "synchronous", "FULL", 2)
        self._catch_up(still, inf)
        self.empty_wal()

    def _catch_up(self, still: HeldCheckpoint, seconds: float) -> bool:
        """Do again for so long what is recorded; whether that was all."""
        end = time.perf_counter() + seconds
        self._db.execute("BEGIN IMMEDIATE")
        while has_time := time.perf_counter() < end:
            change = still.take()
            if change is None:
                break
            self._applier.apply(change)
        self._db.execute("COMMIT")
        return has_time

    def empty_wal(self) -> None:
        [(is_busy, *_)] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if is_busy:
            raise StoreError("the write-ahead log of the copy cannot be copied into it")
