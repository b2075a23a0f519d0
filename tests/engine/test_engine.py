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
    """A change that makes a ccache; FCC_PERM where there is one of this name."""

    def create(collections: Collections) -> None:
        if collections[uid].has(name):
            raise KcmError(Code.FCC_PERM)
        collections[uid].initialize(name, ALICE, None)

    return create


def names(engine: Engine, uid: int = UID) -> Callable[[Collections], list[bytes]]:
    return lambda collections: [ccache.name for ccache in collections[uid]]


def test_conflict_runs_the_function_again() -> None:
    """After a conflict the function gets the collection as the other host left it, and its change counts."""
    store = SharedStore()
    one, two = host(store), host(store)

    async def scenario() -> None:
        await one.change((UID,), creating(b"1000:a"), keep=True)
        await two.change((UID,), creating(b"1000:b"), keep=True)
        # The first host has not seen the other's change.
        await one.change((UID,), creating(b"1000:c"), keep=True)
        assert await one.read((UID,), names(one)) == [b"1000:a", b"1000:b", b"1000:c"]

    asyncio.run(scenario())
    assert store.seen == {"Committed": 3, "Conflict": 1}


def test_conflict_can_change_the_answer() -> None:
    """A function that may no longer do what it did raises when it is called again, and nothing changes."""
    store = SharedStore()
    one, two = host(store), host(store)

    async def scenario() -> None:
        await one.change((UID,), names(one), keep=True)
        await two.change((UID,), creating(b"1000:a"))
        with pytest.raises(KcmError) as raised:
            await one.change((UID,), creating(b"1000:a"), keep=True)
        assert raised.value.code == Code.FCC_PERM
        assert await one.read((UID,), names(one)) == [b"1000:a"]

    asyncio.run(scenario())


def test_conflict_is_reported_to_nobody() -> None:
    """Those who watch are told of a change once, when it counts."""
    store = SharedStore()
    one, two = host(store), host(store)
    reported: list[Kind] = []

    async def scenario() -> None:
        await one.change((UID,), names(one), keep=True)
        await two.change((UID,), creating(b"1000:a"))
        one.watchers.append(
            Watch(lambda event: reported.append(event.kind), lambda collection: collection.default_name)
        )
        await one.change((UID,), creating(b"1000:b"), keep=True)

    asyncio.run(scenario())
    assert reported == [Kind.CREATED]


def test_endless_conflicts_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A UID that others change all the time is answered EAGAIN, and keeps its queue free for the next."""
    store = SharedStore()
    one, two = host(store), host(store)

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_two_uids_in_one_change() -> None:
    """A change of two collections is made as a whole, also after a conflict in one of them."""
    store = SharedStore()
    one, two = host(store), host(store)

    def create_both(collections: Collections) -> None:
        for uid, collection in collections.items():
            collection.initialize(b"%d:both" % uid, BOB, None)

    async def scenario() -> None:
        await one.change((2000, UID), names(one), keep=True)
        await two.change((2000,), creating(b"2000:a", 2000))
        await one.change((2000, UID), create_both, keep=True)
        assert await two.read((2000,), names(two, 2000)) == [b"2000:a", b"2000:both"]
        assert await two.read((UID,), names(two)) == [b"1000:both"]

    asyncio.run(scenario())


def test_needed_collection_comes_with_the_next_call() -> None:
    """A function that needs another UID's collection is called again with it."""
    engine = host(SharedStore())

    def both(collections: Collections) -> list[int]:
        if 2000 not in collections:
            raise CollectionNeededError(2000)
        return sorted(collections)

    async def scenario() -> None:
        assert await engine.read((UID,), both) == [UID, 2000]
        assert not engine.uid_queues.occupied

    asyncio.run(scenario())


def test_read_that_changes_something_is_refused() -> None:
    """A function that is handed to `read` and changes something is an error; nothing is committed."""
    store = SharedStore()
    engine = host(store)

    async def scenario() -> None:
        with pytest.raises(RuntimeError):
            await engine.read((UID,), creating(b"1000:a"))
        assert await engine.read((UID,), names(engine)) == []

    asyncio.run(scenario())
    assert not store.seen


@pytest.mark.parametrize("seed", range(4))
def test_hosts_at_random(seed: int) -> None:
    """On whatever host: a change that succeeded is there once, and one that was refused is not."""
    chance = random.Random(seed)
    store = SharedStore(chance)
    hosts = [host(store) for _ in range(3)]
    made: set[bytes] = set()
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

    async def scenario() -> set[bytes]:
        for start in range(0, 240, 12):
            numbers = range(start, start + 12)
            await asyncio.gather(
                *[change(b"%d:%d" % (uid, number), uid) for number in numbers for uid in (UID, 2000)]
            )
        fresh = host(store)
        return {name for uid in (UID, 2000) for name in await fresh.read((uid,), names(fresh, uid))}

    there = asyncio.run(scenario())
    assert there - undecided == made, f"seed {seed}"
    assert not there & refused, f"seed {seed}"
    assert {"Committed", "Conflict", "Refused", "Unknown", "undecided"} <= set(store.seen), store.seen
    for engine in hosts:
        assert not engine.uid_queues.occupied
