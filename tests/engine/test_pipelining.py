"""Functions of one UID run on changes that are not durable; each caller waits for all that it has seen."""

import asyncio
import errno

from pykcm.ccaches.collection import move
from pykcm.engine.engine import CollectionNeededError, Collections
from pykcm.engine.events import Event, Kind, Watch
from pykcm.engine.uid_queues import MOST_PENDING
from pykcm.protocol.codes import Code, KcmError
from tests.engine.held_store import UID, HeldStore, Host, code_of, creating, names, refused
from tests.server.waiting import settle, until


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
    """A cached collection is not given at once while one of its changes is not durable."""
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
