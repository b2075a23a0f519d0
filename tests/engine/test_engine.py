"""read and change on a store that several hosts share: conflicts, refusals and lost answers."""

import asyncio
import errno
import random
from collections.abc import Callable

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import CollectionNeededError, Collections, Engine
from pykcm.engine.events import Kind, Watch
from pykcm.protocol.codes import Code, KcmError
from pykcm.store.interface import StoreError
from tests.builders import ALICE, BOB
from tests.engine.shared_store import SharedStore

UID = 1000
QUOTAS = Quotas(10_000, 10_000, 1 << 30, 1 << 30, 10_000, 10_000)


def host(store: SharedStore) -> Engine:
    """A host's engine on the shared store."""
    return Engine(store, CollectionCache(store, QUOTAS))


def creating(name: bytes, uid: int = UID) -> Callable[[Collections], None]:
    """A change that creates a ccache; it raises FCC_PERM if the name is taken."""

    def create(collections: Collections) -> None:
        if collections[uid].has(name):
            raise KcmError(Code.FCC_PERM)
        collections[uid].initialize(name, ALICE, None)

    return create


def names(engine: Engine, uid: int = UID) -> Callable[[Collections], list[bytes]]:
    return lambda collections: [ccache.name for ccache in collections[uid]]


async def test_conflict_runs_the_function_again() -> None:
    """After a conflict the function gets the collection as the other host changed it."""
    store = SharedStore()
    one, two = host(store), host(store)
    await one.change((UID,), creating(b"1000:a"), keep=True)
    await two.change((UID,), creating(b"1000:b"), keep=True)
    # The first host has not seen the other's change.
    await one.change((UID,), creating(b"1000:c"), keep=True)
    assert await one.read((UID,), names(one)) == [b"1000:a", b"1000:b", b"1000:c"]
    assert store.seen == {"Committed": 3, "Conflict": 1}


async def test_function_may_raise_when_called_again() -> None:
    """A function that raises when it is called again after a conflict changes nothing."""
    store = SharedStore()
    one, two = host(store), host(store)
    await one.change((UID,), names(one), keep=True)
    await two.change((UID,), creating(b"1000:a"))
    with pytest.raises(KcmError) as raised:
        await one.change((UID,), creating(b"1000:a"), keep=True)
    assert raised.value.code == Code.FCC_PERM
    assert await one.read((UID,), names(one)) == [b"1000:a"]


async def test_change_after_a_conflict_is_reported_once() -> None:
    """Watchers get one event for a change that was made again after a conflict."""
    store = SharedStore()
    one, two = host(store), host(store)
    reported: list[Kind] = []
    await one.change((UID,), names(one), keep=True)
    await two.change((UID,), creating(b"1000:a"))
    one.watchers.append(
        Watch(lambda event: reported.append(event.kind), lambda collection: collection.default_name)
    )
    await one.change((UID,), creating(b"1000:b"), keep=True)
    assert reported == [Kind.CREATED]


async def test_endless_conflicts_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with too many conflicts gets EAGAIN, and its UID's queue is free for the next one."""
    store = SharedStore()
    one, two = host(store), host(store)
    number = 0
    commit = store.commit

    async def after_others(entries: object) -> object:
        nonlocal number
        number += 1
        monkeypatch.setattr(store, "commit", commit)
        await two.change((UID,), creating(b"1000:%d" % number))
        monkeypatch.setattr(store, "commit", after_others)
        return await commit(entries)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "commit", after_others)
    with pytest.raises(StoreError) as raised:
        await one.change((UID,), creating(b"1000:a"), keep=True)
    assert raised.value.code == errno.EAGAIN
    monkeypatch.setattr(store, "commit", commit)
    await one.change((UID,), creating(b"1000:a"), keep=True)


async def test_change_of_two_collections_is_atomic() -> None:
    """A change of two collections is made as a whole, also after a conflict in one of them."""
    store = SharedStore()
    one, two = host(store), host(store)

    def create_both(collections: Collections) -> None:
        for uid, collection in collections.items():
            collection.initialize(b"%d:both" % uid, BOB, None)

    await one.change((2000, UID), names(one), keep=True)
    await two.change((2000,), creating(b"2000:a", 2000))
    await one.change((2000, UID), create_both, keep=True)
    assert await two.read((2000,), names(two, 2000)) == [b"2000:a", b"2000:both"]
    assert await two.read((UID,), names(two)) == [b"1000:both"]


async def test_needed_collection_comes_with_the_next_call() -> None:
    """A function that needs another UID's collection is called again with it."""
    engine = host(SharedStore())

    def both(collections: Collections) -> list[int]:
        if 2000 not in collections:
            raise CollectionNeededError(2000)
        return sorted(collections)

    assert await engine.read((UID,), both) == [UID, 2000]
    assert not engine.uid_queues.occupied


async def test_read_refuses_a_function_that_changes() -> None:
    """`read` raises an exception if its function changes something; nothing is committed."""
    store = SharedStore()
    engine = host(store)
    with pytest.raises(RuntimeError):
        await engine.read((UID,), creating(b"1000:a"))
    assert await engine.read((UID,), names(engine)) == []
    assert not store.seen


@pytest.mark.parametrize("seed", range(8))
async def test_random_outcomes_on_several_hosts_lose_no_change(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each successful change is stored once, and no refused change is stored."""
    # With pauses, the time that they take would decide what happens.
    monkeypatch.setattr("pykcm.engine.commits._LONGEST_PAUSE", 0.0)
    chance = random.Random(seed)
    store = SharedStore(chance)
    hosts = [host(store) for _ in range(3)]
    made: set[bytes] = set()
    seen: dict[int, list[list[bytes]]] = {UID: [], 2000: []}
    undecided: set[bytes] = set()
    refused: set[bytes] = set()

    async def change(name: bytes, uid: int) -> None:
        engine = chance.choice(hosts)
        try:
            await engine.change((uid,), creating(name, uid), keep=chance.random() < 0.5)
        except StoreError as error:
            (undecided if "away" in error.reason else refused).add(name)
        except KcmError as error:
            # Called again after its own commit, whose answer was lost, it would find its own ccache.
            raise AssertionError(f"{name!r} was made twice") from error
        else:
            made.add(name)

    async def read(uid: int) -> None:
        engine = chance.choice(hosts)
        before = {name for name in made if name.startswith(b"%d:" % uid)}
        seen[uid].append(await engine.read((uid,), names(engine, uid), keep=chance.random() < 0.5))
        assert before <= set(seen[uid][-1]), f"seed {seed}: a read is older than its request"

    for start in range(0, 240, 12):
        # On each host several requests of each UID are in flight.
        await asyncio.gather(
            *[
                change(b"%d:%d" % (uid, number), uid) if number % 4 else read(uid)
                for number in range(start, start + 12)
                for uid in (UID, 2000)
            ]
        )
    fresh = host(store)
    stored = {uid: await fresh.read((uid,), names(fresh, uid)) for uid in (UID, 2000)}
    there = {name for uid in stored for name in stored[uid]}
    assert there - undecided == made, f"seed {seed}"
    assert not there & refused, f"seed {seed}"
    for uid, reads in seen.items():
        # The order of ccaches is the order of the changes: a read has seen a beginning of it.
        assert all(read == stored[uid][: len(read)] for read in reads), f"seed {seed}"
    assert {"Committed", "Conflict", "Refused", "Unknown", "undecided"} <= set(store.seen), store.seen
    for engine in hosts:
        assert not engine.uid_queues.occupied
