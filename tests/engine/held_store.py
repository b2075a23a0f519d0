"""An engine on a store whose commits end when a test says so."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Collections, Engine
from pykcm.protocol.codes import KcmError
from pykcm.store.interface import (
    Committed,
    Entry,
    Loaded,
    Outcome,
    Pause,
    Refused,
    StoreError,
)
from pykcm.store.memory import MemoryStore
from pykcm.store.tree import SecretChange
from tests.builders import ALICE, service, ticket
from tests.server.waiting import settle, until

UID = 1000
QUOTAS = Quotas(100, 100, 1 << 30, 1 << 30, 10_000, 10_000)

Change = Callable[[Collections], list[bytes]]


class HeldStore(MemoryStore):
    """A store whose commits end when the test says so; `entries` are those of the commits that have begun.

    `ended`: the outcomes that `outcome` gives. `delays`: waits of the next commits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[list[Entry]] = []
        self.loads = 0
        self.ended: list[Committed | StoreError | None] = []
        self.delays: list[Awaitable[None]] = []
        self._decisions: list[asyncio.Future[list[Outcome] | None]] = []

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        self.loads += 1
        return await super().load(uid)

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> Awaitable[None] | None:  # type: ignore[override]
        return self.delays.pop(0) if self.delays else None

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        self.entries.append(list(entries))
        self._decisions.append(asyncio.get_running_loop().create_future())
        return await self._decisions[-1] or await super().commit(entries)

    async def end(self, *outcomes: Outcome) -> None:
        """Let the commit end that has begun, and all that waits for it go on; without outcomes it is made."""
        await until(lambda: self._decisions and not self._decisions[-1].done())
        self._decisions[-1].set_result(list(outcomes) or None)
        await settle()

    async def end_all(self, *tasks: asyncio.Task[list[bytes]]) -> None:
        """Let all commits end until the tasks are done."""
        while not all(task.done() for task in tasks):
            if self.is_idle:
                await asyncio.sleep(0)
            else:
                await self.end()

    async def outcome(self, entry: Entry) -> Committed | None:  # type: ignore[override]
        ended = self.ended.pop(0)
        if isinstance(ended, StoreError):
            raise ended
        return ended

    @property
    def is_idle(self) -> bool:
        return all(decision.done() for decision in self._decisions)


class Host:
    """An engine on a held store, with UID 1000's collection in the cache."""

    def __init__(self, store: HeldStore, quotas: Quotas = QUOTAS) -> None:
        self.store = store
        self.collection_cache = CollectionCache(store, quotas)
        self.engine = Engine(store, self.collection_cache)

    def begin(self, function: Change, uid: int = UID, *, keep: bool = True) -> asyncio.Task[list[bytes]]:
        return asyncio.ensure_future(self.engine.change((uid,), function, keep=keep))

    async def durable(self, uid: int = UID) -> list[bytes]:
        """The names of ccaches after a crash."""
        return names(uid)({uid: await CollectionCache(self.store, QUOTAS).get(uid)})


def names(uid: int = UID) -> Change:
    return lambda collections: [ccache.name for ccache in collections[uid]]


def creating(name: bytes, uid: int = UID, size: int = 0) -> Change:
    """A change that makes a ccache, perhaps with a ticket; gives all names."""

    def create(collections: Collections) -> list[bytes]:
        credentials = [ticket(service(1), size=size)] if size else []
        collections[uid].replace(name, ALICE, 0, credentials, None)
        return names(uid)(collections)

    return create


def refused(code: int = errno.ENOSPC) -> Refused:
    return Refused(StoreError("no", code))


async def code_of(task: asyncio.Task[list[bytes]]) -> int:
    with pytest.raises(KcmError) as raised:
        await task
    return raised.value.code
