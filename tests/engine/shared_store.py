"""A store that several hosts share: commits conflict, and are refused or lost at random."""

import asyncio
import errno
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pykcm.store.interface import (
    Committed,
    Conflict,
    Entry,
    Freshness,
    Loaded,
    Outcome,
    Pause,
    Refused,
    StoreError,
    Unknown,
)
from pykcm.store.memory import MemoryStore


class SharedStore(MemoryStore):
    """Has a version for each UID; `chance` decides what goes wrong, None: nothing but conflicts.

    `known`: the newest versions that hosts know without asking. `questions`: the UIDs asked about.
    `failure`: of reads and of `outcome`; `outcomes`: of the next entries, which are not made.
    `away`: raised instead of answers; 0: memory counts all the same. `seen` counts the outcomes by their
    names.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        super().__init__()
        self._chance = chance
        self._versions: Counter[int] = Counter()
        self._made: dict[bytes, Committed] = {}
        self.known: dict[int, int] = {}
        self.questions: list[int] = []
        self.away: StoreError | int | None = None
        self.loads = 0
        self.failure: StoreError | None = None
        self.outcomes: list[Outcome] = []
        self.seen: Counter[str] = Counter()

    @property
    def freshness(self) -> Freshness:  # type: ignore[override]
        return self

    def is_known_newest(self, uid: int, version: int) -> bool:
        return self.known.get(uid) == version

    async def newest_version(self, uid: int) -> int:
        self.questions.append(uid)
        await self._wait()
        if isinstance(self.away, StoreError):
            raise self.away
        return self._versions[uid] if self.away is None else 0

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        if self.failure is not None:
            raise self.failure
        self.loads += 1
        await self._wait()
        return (await super().load(uid))._replace(version=self._versions[uid])

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        await self._wait()
        outcomes = [await self._commit_one(entry) for entry in entries]
        await self._wait()
        self.seen.update(type(outcome).__name__ for outcome in outcomes)
        return outcomes

    async def _commit_one(self, entry: Entry) -> Outcome:
        assert entry.id not in self._made, "an id is used once"
        if self.outcomes:
            return self.outcomes.pop(0)
        if self._happens(0.05):
            return Refused(StoreError("no space left", errno.ENOSPC))
        is_lost = self._happens(0.1)
        if is_lost and self._happens(0.5):
            return Unknown(StoreError("the connection was lost before the commit"))
        stale = tuple(uid for uid, base in entry.bases.items() if self._versions[uid] != base)
        if stale:
            return Conflict(stale)
        if entry.added > 0 and await self.count_ccaches() + entry.added > entry.most_ccaches > 0:
            return Conflict(tuple(entry.bases))
        await super().commit([entry])
        for uid in entry.bases:
            self._versions[uid] += 1
        self._made[entry.id] = Committed({uid: self._versions[uid] for uid in entry.bases})
        if is_lost:
            return Unknown(StoreError("the connection was lost after the commit"))
        return self._made[entry.id]

    async def outcome(self, entry: Entry) -> Any:
        await self._wait()
        if self.failure is not None:
            raise self.failure
        if self._happens(0.2):
            self.seen["undecided"] += 1
            raise StoreError("the database is away")
        return self._made.get(entry.id)

    async def _wait(self) -> None:
        for _ in range(0 if self._chance is None else self._chance.randrange(4)):
            await asyncio.sleep(0)

    def _happens(self, probability: float) -> bool:
        return self._chance is not None and self._chance.random() < probability
