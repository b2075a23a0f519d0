"""A long journal is copied into the database beside the loop, so that nobody waits for it."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pykcm.store.database import OWNED, connect
from pykcm.store.keys import Key

# The second one copies what was committed during the first.
_PASSES = 2


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
