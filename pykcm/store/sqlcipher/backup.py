"""A backup: a copy of the database's file, made while no checkpoint changes it."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from pykcm.store.interface import StoreError
from pykcm.store.sqlcipher.database import file_error, size_of
from pykcm.store.sqlcipher.key_rotation import pending_key_of
from pykcm.store.sqlcipher.online_copy import CopiedStore, HeldCheckpoint, Worker, check_file

_PIECE = 256 * 1024

# The share of reading in the progress. The check of the pages runs at the same time, and ends later.
_SHARE_OF_READING = 0.75

# Seconds between two looks at whether the check has ended.
_CHECK = 1.0


@asynccontextmanager
async def backup(store: CopiedStore) -> AsyncIterator["FileBackup"]:
    """Make a backup; raises StoreError, StoreBusyError."""
    async with HeldCheckpoint(store) as checkpoint:
        yield FileBackup(store, checkpoint)


class FileBackup:
    """Implements Backup: its pieces make a database that the store's key opens."""

    def __init__(self, store: CopiedStore, checkpoint: HeldCheckpoint) -> None:
        self.size = size_of(store.path)
        self.key = store.key.source
        self.is_pending = self.key == pending_key_of(store.path)
        self._store = store
        self._checkpoint = checkpoint
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        return self._digest.digest()

    @property
    def slowed(self) -> tuple[int, ...]:
        return tuple(self._checkpoint.pacer.slowed)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        store = self._store
        async with Worker(partial(check_file, store.path, store.key)) as checking:
            for at in range(0, self.size, _PIECE):
                piece = await asyncio.to_thread(self._read, at)
                self._checkpoint.check()
                yield piece
                self._checkpoint.advance(_SHARE_OF_READING * (at + len(piece)) / self.size)
            while not await checking.is_done(_CHECK):
                self._checkpoint.check()
            self._checkpoint.check()

    def _read(self, at: int) -> bytes:
        size = min(_PIECE, self.size - at)
        try:
            piece = os.pread(self._store.descriptor(), size, at)
        except OSError as error:
            raise file_error(error, self._store.path) from error
        if len(piece) != size:
            raise StoreError(f"{self._store.path}: the file has become shorter")
        self._digest.update(piece)
        return piece
