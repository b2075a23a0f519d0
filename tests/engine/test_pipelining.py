"""Functions of one UID run on changes that are not durable; each caller waits for all that it has seen."""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from pykcm.ccaches.collection import move
from pykcm.ccaches.quotas import Quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import CollectionNeededError, Collections, Engine
from pykcm.engine.events import Event, Kind, Watch
from pykcm.engine.uid_queues import MOST_PENDING
from pykcm.protocol.codes import Code, KcmError
from pykcm.store.interface import (
    Committed,
    Conflict,
    Entry,
    Loaded,
    Outcome,
    Pause,
    Refused,
    StoreError,
    Unknown,
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


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host(HeldStore())
    await host.engine.read((UID,), names(), keep=True)
    yield host
    assert host.store.is_idle
    assert not host.engine.uid_queues.occupied
    # Memory is as the store is.
    assert await host.engine.read((UID,), names(), keep=True) == await host.durable()


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


async def test_next_function_runs_on_uncommitted_changes(host: Host) -> None:
    """A function runs while the one before it is committed, and sees its changes."""
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    second = host.begin(creating(b"b"))
    await settle()
    assert not first.done()
    await host.store.end()
    assert await first == [b"a"]
    assert not second.done()
    assert await host.durable() == [b"a"]
    await host.store.end()
    assert await second == [b"a", b"b"]
    assert await host.durable() == [b"a", b"b"]


async def test_functions_of_one_commit_are_one_entry(host: Host) -> None:
    """All that is changed while a commit is made is the UID's next entry, in order and on its version."""
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    others = [host.begin(creating(name)) for name in (b"b", b"c", b"d")]
    await settle()
    await host.store.end()
    version = host.collection_cache.version(UID)
    await until(lambda: len(host.store.entries) == 2)
    await host.store.end()
    assert [len(entries) for entries in host.store.entries] == [1, 1]
    (entry,) = host.store.entries[1]
    assert entry.bases == {UID: version}
    assert [change.name[33:] for change in entry.changes if change.name] == ["b", "c", "d"]  # type: ignore[union-attr]
    assert list(await asyncio.gather(*others)) == [[b"a", b"b"], [b"a", b"b", b"c"], [b"a", b"b", b"c", b"d"]]
    assert await first == [b"a"]
    assert host.engine.committer.operations == 4


async def test_functions_of_one_iteration_share_the_commit(host: Host) -> None:
    """Functions that come together are committed together, each with its own result."""
    tasks = [host.begin(creating(name)) for name in (b"a", b"b", b"c")]
    await host.store.end()
    assert list(await asyncio.gather(*tasks)) == [[b"a"], [b"a", b"b"], [b"a", b"b", b"c"]]
    assert len(host.store.entries) == 1


async def test_read_waits_for_what_it_has_seen(host: Host) -> None:
    """A read that sees uncommitted changes is answered after their commit, and not after a later one."""
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    read = asyncio.ensure_future(host.engine.read((UID,), names(), keep=True))
    await settle()
    second = host.begin(creating(b"b"))
    late_read = asyncio.ensure_future(host.engine.read((UID,), names(), keep=True))
    await settle()
    assert not read.done()
    await host.store.end()
    assert await read == [b"a"]
    assert not late_read.done()
    await host.store.end()
    assert await late_read == [b"a", b"b"]
    await asyncio.gather(first, second)


async def test_error_waits_for_what_it_follows_from(host: Host) -> None:
    """An error that shows an uncommitted change is answered after its commit."""

    def fail(collections: Collections) -> list[bytes]:
        if collections[UID].has(b"a"):
            raise KcmError(Code.FCC_PERM)
        return []

    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    failing = host.begin(fail)
    await settle()
    assert not failing.done()
    await host.store.end(refused())
    assert await code_of(first) == errno.ENOSPC
    assert await failing == []
    again = host.begin(creating(b"a"))
    failing = host.begin(fail)
    await host.store.end()
    assert await code_of(failing) == Code.FCC_PERM
    await again


async def test_plain_reads_are_refused_meanwhile(host: Host) -> None:
    """What is in the cache is not given at once while a change of it is not durable."""
    assert host.engine.cached((UID,)) is not None
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    assert host.engine.cached((UID,)) is None
    await host.store.end()
    await first
    assert host.engine.cached((UID,)) is not None


async def test_small_change_stays_behind_a_large_one(host: Host) -> None:
    """Changes of one UID are committed in their order, whatever their sizes."""
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    tasks = [host.begin(creating(b"large", size=2 << 20))]
    await settle()
    # The UID has more in flight than it may.
    tasks.append(host.begin(creating(b"b")))
    await host.store.end()
    assert not tasks[1].done()
    assert await host.durable() == [b"a"]
    await host.store.end()
    assert await host.durable() == [b"a", b"large"]
    await host.store.end()
    assert await host.durable() == [b"a", b"large", b"b"]
    await asyncio.gather(first, *tasks)


async def test_entries_are_no_larger_than_one_commit_of_a_uid(host: Host) -> None:
    """A UID that changes much in small pieces is committed in several entries, in order."""
    tasks = [host.begin(creating(b"%d" % number, size=14_000)) for number in range(10)]
    for _ in range(3):
        await host.store.end()
    assert [[entry.size // 14_000 for entry in entries] for entries in host.store.entries] == [[4], [4], [2]]
    await asyncio.gather(*tasks)
    assert await host.durable() == [b"%d" % number for number in range(10)]


async def test_refused_change_fails_alone(host: Host) -> None:
    """After a refusal the functions behind it run again, on what is stored; they do not fail."""
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    others = [host.begin(creating(name)) for name in (b"b", b"c")]
    read = asyncio.ensure_future(host.engine.read((UID,), names()))
    await settle()
    await host.store.end(refused())
    assert await code_of(first) == errno.ENOSPC
    await host.store.end()
    await host.store.end()
    assert list(await asyncio.gather(*others)) == [[b"b"], [b"b", b"c"]]
    assert await read == [b"b", b"c"]
    assert host.store.loads == 2  # at first, and after the refusal


async def test_refusal_of_an_entry_is_found_out_for_each_change(host: Host) -> None:
    """Changes of a refused entry are committed again one by one: only those fail that are refused then."""
    tasks = [host.begin(creating(name)) for name in (b"a", b"b", b"c")]
    await host.store.end(refused())
    assert not any(task.done() for task in tasks)
    await host.store.end()
    assert await tasks[0] == [b"a"]
    await host.store.end(refused(errno.EIO))
    assert await code_of(tasks[1]) == errno.EIO
    await host.store.end()
    assert await tasks[2] == [b"a", b"c"]


async def test_conflict_runs_all_again_in_order(host: Host) -> None:
    """After a conflict all functions run again, in their order, before those that have come since."""
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    second = host.begin(creating(b"b"))
    await settle()
    await host.store.end(Conflict((UID,)))
    third = host.begin(creating(b"c"))
    for _ in range(3):
        await host.store.end()
    assert list(await asyncio.gather(first, second, third)) == [[b"a"], [b"a", b"b"], [b"a", b"b", b"c"]]


@pytest.mark.parametrize(
    ("ended", "code"),
    [(None, 0), (StoreError("away", errno.EIO), errno.EIO)],
    ids=["not committed", "undecided"],
)
async def test_unknown_outcome_is_found_out(host: Host, ended: StoreError | None, code: int) -> None:
    """Changes that were not made run again. Those that may have been made fail, and the others run again."""
    host.store.ended = [ended]
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    second = host.begin(creating(b"b"))
    await settle()
    await host.store.end(Unknown(StoreError("lost")))
    if code:
        assert await code_of(first) == code
    else:
        await host.store.end()
        assert await first == [b"a"]
    await host.store.end()
    assert await second == ([b"b"] if code else [b"a", b"b"])


async def test_unknown_outcome_that_was_committed(host: Host) -> None:
    """Changes that turn out to be durable are answered, and the next ones are based on their version."""
    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    second = host.begin(creating(b"b"))
    (made,) = await MemoryStore.commit(host.store, host.store.entries[0])
    assert isinstance(made, Committed)
    host.store.ended = [made]
    await host.store.end(Unknown(StoreError("lost")))
    assert await first == [b"a"]
    assert host.collection_cache.version(UID) == made.versions[UID]
    await host.store.end()
    assert await second == [b"a", b"b"]


@pytest.mark.parametrize("is_busy", [False, True], ids=["alone", "behind another change"])
async def test_function_that_fails_half_way_changes_nothing(host: Host, is_busy: bool) -> None:
    """What a function has changed before it raised is forgotten; changes of others are not."""

    def fail(collections: Collections) -> list[bytes]:
        creating(b"half")(collections)
        raise KcmError(Code.FCC_PERM)

    tasks = []
    if is_busy:
        tasks = [host.begin(creating(b"a"))]
        await until(lambda: host.store.entries)
        tasks.append(host.begin(creating(b"b")))
        await settle()
    failing = host.begin(fail)
    await settle()
    behind = host.begin(creating(b"c"))
    for _ in range(3 if is_busy else 1):
        await host.store.end()
    assert await code_of(failing) == Code.FCC_PERM
    await asyncio.gather(*tasks, behind)
    assert await host.durable() == ([b"a", b"b", b"c"] if is_busy else [b"c"])


async def test_function_that_needs_another_uid_waits_for_commits(host: Host) -> None:
    """A function that turns out to need a second UID runs again when nothing of both is uncommitted."""

    def both(collections: Collections) -> list[bytes]:
        if 2000 not in collections:
            raise CollectionNeededError(2000)
        return names()(collections) + names(2000)(collections)

    tasks = [host.begin(creating(b"a"))]
    await until(lambda: host.store.entries)
    tasks.append(host.begin(creating(b"b", 2000), 2000))
    needing = host.begin(both)
    await settle()
    await host.store.end()
    assert not needing.done()
    await host.store.end()
    assert await needing == [b"a", b"b"]
    await asyncio.gather(*tasks)


async def test_change_of_two_uids_is_one_entry(host: Host) -> None:
    """A move between UIDs waits for the changes of both, and those behind it wait for its commit."""

    def move_it(collections: Collections) -> list[bytes]:
        move(collections[UID], b"a", collections[2000], b"b")
        return names(2000)(collections)

    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    moving = asyncio.ensure_future(host.engine.change((UID, 2000), move_it, keep=True))
    await settle()
    assert not moving.done()
    await host.store.end()
    await until(lambda: len(host.store.entries) == 2)
    assert set(host.store.entries[1][0].bases) == {UID, 2000}
    behind = host.begin(names(2000), 2000)
    await settle()
    assert not behind.done()
    await host.store.end(refused())
    assert await code_of(moving) == errno.ENOSPC
    assert await behind == []
    assert await host.durable() == [b"a"]
    await first


async def test_cancelled_caller_drops_no_work(host: Host) -> None:
    """A caller that is cancelled while its change is committed takes nothing from the others."""
    tasks = [host.begin(creating(name)) for name in (b"a", b"b")]
    await until(lambda: host.store.entries)
    behind = host.begin(creating(b"c"))
    await settle()
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    await host.store.end()
    await host.store.end()
    assert await tasks[1] == [b"a", b"b"]
    assert await behind == [b"a", b"b", b"c"]


async def test_change_of_a_cancelled_caller_does_not_run_again(host: Host) -> None:
    """After a conflict the functions run again whose callers wait."""
    tasks = [host.begin(creating(name)) for name in (b"a", b"b")]
    await until(lambda: host.store.entries)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    await host.store.end(Conflict((UID,)))
    await host.store.end()
    assert await tasks[1] == [b"b"]


async def test_caller_cancelled_in_the_queue(host: Host) -> None:
    """A caller that is cancelled before its function has run changes nothing, and the next one runs."""
    tasks = [host.begin(creating(b"a", size=2 << 20))]
    await until(lambda: host.store.entries)
    tasks += [host.begin(creating(name)) for name in (b"b", b"c")]
    await settle()
    assert host.engine.uid_queues.waiting == 2
    tasks[1].cancel()
    await host.store.end()
    await host.store.end()
    assert await tasks[2] == [b"a", b"c"]


async def test_number_of_changes_in_flight_is_limited(host: Host) -> None:
    """Beyond the limit the functions of a UID wait in its queue; those of other UIDs do not."""
    first = host.begin(creating(b"first"))
    await until(lambda: host.store.entries)
    tasks = [host.begin(names()) for _ in range(MOST_PENDING + 3)]
    await settle()
    assert host.engine.uid_queues.waiting == 4
    other = host.begin(names(2000), 2000)
    await settle()
    assert other.done()
    await host.store.end()
    await asyncio.gather(first, other, *tasks)


async def test_functions_wait_while_pending_ones_run_again(host: Host) -> None:
    """A caller that was let into the queue in the moment of a failure waits until all has run again."""
    first = host.begin(creating(b"a", size=2 << 20))
    await until(lambda: host.store.entries)
    waiting = [host.begin(creating(name)) for name in (b"b", b"c")]
    await settle()
    await host.store.end(Conflict((UID,)))
    await host.store.end_all(first, *waiting)
    assert await first == [b"a"]
    assert sorted(await asyncio.gather(*waiting)) == [[b"a", b"b"], [b"a", b"b", b"c"]]


async def test_counts_are_taken_back() -> None:
    """Ccaches whose creation was refused count no longer, and those made again count once."""
    host = Host(HeldStore(), QUOTAS._replace(max_ccaches=3))
    await host.engine.read((UID,), names(), keep=True)
    tasks = [host.begin(creating(name)) for name in (b"a", b"b", b"c")]
    await host.store.end(refused())
    for outcome in (refused(), refused(), None):
        await host.store.end(*([outcome] if outcome else []))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [StoreError, StoreError, list]
    more = [host.begin(creating(name)) for name in (b"d", b"e")]
    await host.store.end()
    await asyncio.gather(*more)
    assert await code_of(host.begin(creating(b"f"))) == errno.EDQUOT


async def test_events_are_reported_in_order_after_the_commit(host: Host) -> None:
    """An event is reported when its change is durable, and shows the ccache as that change has left it."""
    reported: list[Event] = []
    host.engine.watchers.append(Watch(reported.append, lambda collection: collection.default_name))

    def relabel(collections: Collections) -> list[bytes]:
        ccache = collections[UID].get(b"a")
        assert ccache is not None
        collections[UID].relabel(ccache, "label")
        collections[UID].destroy(b"a")
        return []

    def seen() -> list[tuple[Kind, bytes, str | None]]:
        return [(event.kind, event.ccache, event.label) for event in reported]

    first = host.begin(creating(b"a"))
    await until(lambda: host.store.entries)
    second = host.begin(relabel)
    await settle()
    assert reported == []
    await host.store.end()
    assert seen() == [(Kind.CREATED, b"a", None)]
    await host.store.end()
    assert seen()[1:] == [(Kind.DESTROYED, b"a", "label")]
    await asyncio.gather(first, second)


async def test_events_of_a_change_that_runs_again_are_reported_once(host: Host) -> None:
    """A change that runs again is reported when it counts, and then once."""
    reported: list[tuple[Kind, bytes]] = []
    host.engine.watchers.append(
        Watch(lambda event: reported.append((event.kind, event.ccache)), lambda _: b"")
    )
    tasks = [host.begin(creating(name)) for name in (b"a", b"b")]
    await host.store.end(Conflict((UID,)))
    assert reported == []
    await host.store.end()
    await host.store.end()
    await asyncio.gather(*tasks)
    assert reported == [(Kind.CREATED, b"a"), (Kind.CREATED, b"b")]


async def test_wait_for_a_copy_does_not_reorder(host: Host) -> None:
    """While a UID's changes wait for a copy of the store, its later ones stay behind, others go on."""
    copied = asyncio.get_running_loop().create_future()
    host.store.delays = [copied]
    tasks = [host.begin(creating(b"a"))]
    await settle()
    tasks += [host.begin(creating(b"b")), host.begin(creating(b"c", 2000), 2000)]
    await host.store.end()
    assert await tasks[2] == [b"c"]
    assert not tasks[1].done()
    copied.set_result(None)
    await host.store.end()
    await host.store.end()
    assert list(await asyncio.gather(*tasks[:2])) == [[b"a"], [b"a", b"b"]]


async def test_unwanted_collection_leaves_the_cache_after_its_commit(host: Host) -> None:
    """A collection that only the reaper wanted is not kept; one that a user wanted meanwhile is."""
    unwanted = host.begin(creating(b"a", 2000), 2000, keep=False)
    await until(lambda: host.store.entries)
    assert host.collection_cache.is_present(2000)
    await host.store.end()
    await unwanted
    assert not host.collection_cache.is_present(2000)
    unwanted = host.begin(creating(b"b", 2000), 2000, keep=False)
    await until(lambda: len(host.store.entries) == 2)
    wanted = host.begin(names(2000), 2000)
    await settle()
    await host.store.end()
    assert await wanted == [b"a", b"b"]
    await unwanted
    assert host.collection_cache.is_present(2000)


async def test_collection_with_pending_changes_stays_in_the_cache() -> None:
    """Room is not made by dropping a collection whose changes are not durable yet."""
    store = HeldStore()
    host = Host(store)
    host.collection_cache._cache_size = 1
    await host.engine.read((UID,), names(), keep=True)
    first = host.begin(creating(b"a"))
    await until(lambda: store.entries)
    await host.begin(names(2000), 2000)
    assert host.collection_cache.is_present(UID)
    second = host.begin(creating(b"b"))
    await settle()
    await store.end()
    await store.end()
    assert list(await asyncio.gather(first, second)) == [[b"a"], [b"a", b"b"]]
