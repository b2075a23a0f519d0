"""Scans of all containers in slices: the number of ccaches, and the UIDs that have some.

Between two slices other tasks commit, and rekey may even replace the database by its copy. Therefore no
cursor is open then.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Put,
    SecretChange,
    is_ccaches_container,
    uid_of_container,
)

# Containers and ccaches in one slice, which takes at most 1 ms.
_AT_ONCE = 64

# In the order of the index of paths.
_CONTAINERS = "SELECT path FROM containers WHERE path > ? ORDER BY path LIMIT ?"
_WITH_CCACHES = """
    SELECT path, path GLOB '*/ccaches' AND EXISTS (SELECT 1 FROM secrets WHERE container = containers.id)
    FROM containers WHERE path > ? ORDER BY path LIMIT ?
"""
_COUNT = """
    SELECT count(*), max(name) FROM (
        SELECT name FROM secrets
        WHERE container = (SELECT id FROM containers WHERE path = ?) AND name > ? ORDER BY name LIMIT ?
    )
"""

# Greater than every path and every name of a ccache's secret.
_AFTER_ALL = "\x7f"

Query = Callable[[str, tuple[Any, ...]], list[Any]]


async def uids_with_ccaches(query: Query) -> list[int]:
    """Return the UIDs as Store does; `query` returns all rows of a statement."""
    # Among UIDs with equally many digits, the order of paths is that of the UIDs.
    by_length: dict[int, list[int]] = {}
    last = ""
    while True:
        rows = query(_WITH_CCACHES, (last, _AT_ONCE))
        for path, has_ccaches in rows:
            uid = uid_of_container(path)
            if uid is not None and has_ccaches:
                by_length.setdefault(len(str(uid)), []).append(uid)
        if len(rows) < _AT_ONCE:
            break
        last = path
        await asyncio.sleep(0)
    uids = []
    for length in sorted(by_length):
        uids += by_length[length]
    return uids


class CCacheCounter:
    """Counts the ccaches in the database once, and then follows the commits.

    `query` returns all rows of a statement, and raises StoreError. There is no commit while `lock` is held.
    """

    def __init__(self, query: Query, lock: asyncio.Lock) -> None:
        self._query = query
        self._lock = lock
        self._counting: asyncio.Task[None] | None = None
        self._is_complete = False
        self._total = 0
        # The containers before this path have been counted, and the names up to this one in its container.
        self._path = ""
        self._name = ""
        self._of_path = 0

    async def count(self) -> int:
        """Return the number of ccaches; raises StoreError."""
        while not self._is_complete:
            if self._counting is None or self._counting.done():
                if not self._lock.locked() and self._advance():
                    break
                # One task for all callers: each iteration of the event loop has one slice.
                self._counting = asyncio.get_running_loop().create_task(self._count_on())
            await asyncio.shield(self._counting)
        return self._total

    async def _count_on(self) -> None:
        is_complete = False
        while not is_complete:
            await asyncio.sleep(0)
            # The changes of an unfinished commit may be visible already, and would be counted twice.
            async with self._lock:
                is_complete = self._advance()

    def committed(self, change: SecretChange, more: int) -> None:
        """Count a durable change that added `more` ccaches; negative: it removed some."""
        path = change.container
        if path < self._path:
            self._total += more
        elif path == self._path:
            match change:
                case DeleteContainer():
                    self._add(-self._of_path)
                case Put(_, name) | Delete(_, name) if name <= self._name:
                    self._add(more)

    def _advance(self) -> bool:
        """Count the next slice; returns whether it was the last one."""
        left = self._count_in_container(_AT_ONCE)
        if not left:
            return False
        containers = self._query(_CONTAINERS, (self._path, left))
        has_more = len(containers) == left
        for (path,) in containers:
            self._path, self._name, self._of_path = path, "", 0
            left = self._count_in_container(left - 1)
            if not left:
                return False
        if not has_more:
            self._path = _AFTER_ALL
            self._is_complete = True
        return self._is_complete

    def _count_in_container(self, most: int) -> int:
        """Continue in this container, up to `most` ccaches; returns how many are left of `most`."""
        if not most or self._name == _AFTER_ALL or not is_ccaches_container(self._path):
            return most
        count: int
        [(count, last)] = self._query(_COUNT, (self._path, self._name, most))
        self._add(count)
        self._name = last if count == most else _AFTER_ALL
        return most - count

    def _add(self, more: int) -> None:
        self._total += more
        self._of_path += more
