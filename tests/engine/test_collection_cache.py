"""The cache of collections: what is read, kept and dropped; and the count of all ccaches."""

import asyncio
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Loaded, Pause, Store, StoreError
from pykcm.store.keys import Key
from pykcm.store.memory import MemoryStore
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, ccache_name, ccaches_container
from tests.builders import ALICE, TGS, changed, credential_bytes, peer, principal_bytes, refused, service
from tests.server.asking import ScriptedStore, Server, answer, frame, unpack
from tests.server.waiting import settle, until
from tests.storing import EMBEDDED_STORES, commit_changes


@pytest.fixture
def sqlcipher_store(tmp_path: Path) -> Iterator[SQLCipherStore]:
    store = SQLCipherStore(tmp_path / "pykcm.db", Key(bytes(32), tmp_path))
    yield store
    store.close()


async def test_collection_is_read_once(store: Store) -> None:
    """A collection is read when it is first needed, and again only after it was dropped."""
    scripted = ScriptedStore(store)
    collection_cache = CollectionCache(scripted, Quotas())
    assert collection_cache.present(1000) is None
    collection = await collection_cache.get(1000)
    assert collection_cache.present(1000) is collection
    assert await collection_cache.get(1000) is collection
    assert scripted.loads == [1000]
    collection_cache.drop(1000)
    assert collection_cache.present(1000) is None
    assert await collection_cache.get(1000) is not collection
    assert scripted.loads == [1000, 1000]


async def test_failed_read_is_not_cached(store: Store) -> None:
    """A collection that cannot be read is not cached: the next caller reads again."""
    scripted = ScriptedStore(store)
    collection_cache = CollectionCache(scripted, Quotas())

    async def failing(uid: int, pause: Pause) -> None:
        raise StoreError("no", errno.EIO)

    read = scripted.load
    scripted.load = failing  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError):
        await collection_cache.get(1000)
    assert collection_cache.present(1000) is None
    scripted.load = read  # type: ignore[method-assign]
    assert (await collection_cache.get(1000)).uid == 1000


def limited(runner: asyncio.Runner, store: Store, limit: int) -> Server:
    return Server(runner, store, quotas=Quotas(max_ccaches=limit))


def test_max_ccaches_counts_stored_ccaches_after_a_restart(runner: asyncio.Runner, store: Store) -> None:
    """max_ccaches counts all ccaches in the store, also those not read yet."""
    limited(runner, store, 2).ask_as(1000).initialize(b"1000", ALICE)
    again = limited(runner, store, 2)
    again.ask_as(2000).initialize(b"2000", ALICE)
    with refused(errno.EDQUOT):
        again.ask_as(3000).initialize(b"3000", ALICE)
    again.ask_as(1000).destroy(b"1000")
    again.ask_as(3000).initialize(b"3000", ALICE)


@EMBEDDED_STORES
def test_unreadable_ccache_counts_until_it_is_destroyed(runner: asyncio.Runner, store: Store) -> None:
    """A ccache that cannot be read counts until it is destroyed, whether or not it was read."""
    name = ccache_name(bytes(16), b"1000")
    runner.run(commit_changes(store, [Put(ccaches_container(1000), name, b"?")]))
    server = limited(runner, store, 1)
    for _ in range(2):
        with refused(errno.EDQUOT):
            server.ask_as(2000).initialize(b"2000", ALICE)
        assert server.ask_as(1000).get_cache_uuid_list() == []
    server.ask_as(1000).destroy(b"1000")
    server.ask_as(2000).initialize(b"2000", ALICE)


def test_refused_creation_does_not_count(runner: asyncio.Runner, store: Store) -> None:
    """A ccache whose creation another quota refused does not count."""
    server = Server(runner, store, quotas=Quotas(max_ccaches=1, max_ccache_size=2200))
    long = changed(ALICE, realm=b"R" * 100)
    for _ in range(3):
        with refused(errno.EDQUOT):
            server.ask_as(1000).initialize(b"1000", long)
    server.ask_as(1000).initialize(b"1000", ALICE)


@pytest.mark.parametrize("uid", [1000, 2000], ids=["the same UID", "another UID"])
def test_count_is_right_after_a_failed_commit(runner: asyncio.Runner, store: Store, uid: int) -> None:
    """After failed commits the count is that of the store, and the limit holds."""
    server = limited(runner, store, 3)
    for other in (1000, 2000):
        server.ask_as(other).initialize(b"%d" % other, ALICE)
    server.store.refusal = lambda _: StoreError("full", errno.ENOSPC)
    for name in (b"1000:a", b"1000:b"):
        with refused(errno.ENOSPC):
            server.ask_as(1000).initialize(name, ALICE)
    with refused(errno.ENOSPC):
        server.ask_as(1000).destroy(b"1000")
    server.store.refusal = lambda _: None
    server.ask_as(uid).initialize(b"%d:a" % uid, ALICE)
    with refused(errno.EDQUOT):
        server.ask_as(uid).initialize(b"%d:b" % uid, ALICE)
    assert runner.run(store.count_ccaches()) == 3


@EMBEDDED_STORES
async def test_failed_commit_does_not_affect_the_count_of_other_uids(
    runner: asyncio.Runner, store: Store
) -> None:
    """A ccache that waits for its commit stays counted when another UID's commit fails."""
    server = limited(runner, store, 2)

    def create(uid: int) -> asyncio.Future[Any]:
        arguments = b"%d\0" % uid + principal_bytes(ALICE)
        return asyncio.ensure_future(
            answer(server.dispatcher, peer(uid), frame(Opcode.INITIALIZE, arguments))
        )

    first, second = asyncio.Event(), asyncio.Event()
    server.store.gate = first
    server.store.refusal = lambda changes: (
        StoreError("full", errno.ENOSPC) if changes[0].container == ccaches_container(1000) else None
    )
    failing = create(1000)
    await until(lambda: len(server.store.commits) == 1)
    waiting = create(2000)
    server.store.gate = second
    first.set()
    replies = [await failing]
    await until(lambda: len(server.store.commits) == 2)
    others = [create(3000), create(4000)]
    await settle()
    second.set()
    replies += [await each for each in (waiting, *others)]
    assert [unpack(reply)[0] for reply in replies] == [errno.ENOSPC, 0, 0, errno.EDQUOT]
    assert await store.count_ccaches() == 2


def test_store_is_not_counted_without_max_ccaches(runner: asyncio.Runner, store: Store) -> None:
    """Without max_ccaches the store's ccaches are not counted."""
    server = Server(runner, store)

    async def counting() -> int:
        raise AssertionError("nobody needs to know")

    server.store.count_ccaches = counting  # type: ignore[method-assign]
    server.ask_as(1000).initialize(b"1000", ALICE)


async def filled(collection_cache: CollectionCache, uids: Sequence[int]) -> None:
    for uid in uids:
        collection = await collection_cache.get(uid)
        collection.initialize(b"%d" % uid, ALICE, None)
        collection.take_changes()
        collection_cache.weigh(collection)


def present(collection_cache: CollectionCache) -> set[int]:
    # Not by `present`, which is a use.
    return set(collection_cache._collections)


@pytest.fixture
async def footprint() -> int:
    """The footprint of a collection with one empty ccache."""
    collection_cache = CollectionCache(MemoryStore(), Quotas())
    await filled(collection_cache, [1000])
    return (await collection_cache.get(1000)).footprint


async def test_least_recently_used_collection_is_dropped(store: Store, footprint: int) -> None:
    """If the cache is full, the least recently used collection is dropped."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=3 * footprint)
    await filled(collection_cache, [1000, 2000, 3000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {1000, 2000, 3000}
    collection_cache.present(1000)
    await filled(collection_cache, [4000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {1000, 3000, 4000}


async def test_collections_in_use_are_not_dropped(store: Store, footprint: int) -> None:
    """A collection in use stays, and so does the most recently used one, of any size."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=1)
    await filled(collection_cache, [1000, 2000, 3000])
    collection_cache.make_room(lambda uid: uid != 1000)
    assert present(collection_cache) == {1000, 3000}
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {3000}


async def test_cache_size_0_is_no_limit(store: Store) -> None:
    """With cache_size 0 no collection is dropped."""
    collection_cache = CollectionCache(store, Quotas())
    await filled(collection_cache, range(1000, 1100))
    collection_cache.make_room(lambda _: True)
    assert len(present(collection_cache)) == 100


async def test_dropped_and_shrunk_collections_leave_room(store: Store, footprint: int) -> None:
    """A dropped collection does not count, and one that shrank counts less."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=5 * footprint // 2)
    await filled(collection_cache, [1000, 2000])
    collection_cache.drop(1000)
    await filled(collection_cache, [3000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2000, 3000}
    shrunk = await collection_cache.get(2000)
    shrunk.destroy(b"2000")
    collection_cache.weigh(shrunk)
    await filled(collection_cache, [4000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2000, 3000, 4000}


def test_dropped_collection_is_read_again(runner: asyncio.Runner, store: Store) -> None:
    """A dropped collection is read again when it is needed, with everything stored."""
    server = Server(runner, store, cache_size=1)
    for uid in (1000, 2000, 3000):
        asking = server.ask_as(uid)
        asking.initialize(b"%d" % uid, ALICE)
        asking.store(b"%d" % uid, credential_bytes(TGS))
    assert present(server.collection_cache) == {3000}
    assert server.ask_as(1000).get_cred_list(b"1000") == [credential_bytes(TGS)]
    assert present(server.collection_cache) == {1000}
    assert server.store.loads == [1000, 2000, 3000, 1000]


def test_list_of_all_users_keeps_one_collection(runner: asyncio.Runner, store: Store) -> None:
    """Root's list of all users' ccaches leaves no more collections in the cache than before."""
    server = Server(runner, store, cache_size=1, root_lists_all=True)
    for uid in (1000, 2000, 3000):
        server.ask_as(uid).initialize(b"%d" % uid, ALICE)
    assert len(server.ask_as(0).get_cache_uuid_list()) == 3
    assert len(present(server.collection_cache)) == 1


async def test_large_collections_are_dropped_first(store: Store, footprint: int) -> None:
    """A large collection is dropped before small ones that were used earlier; the least recent one first."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=200 * footprint)
    await filled(collection_cache, range(1000, 1050))
    for uid in (1, 2, 3):
        collection = await collection_cache.get(uid)
        for number in range(130):
            collection.initialize(b"%d:%d" % (uid, number), ALICE, None)
        collection_cache.weigh(collection)
        collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2, 3, *range(1000, 1050)}
    collection_cache.present(2)
    await filled(collection_cache, range(2000, 2060))
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2, *range(1000, 1050), *range(2000, 2060)}
    # One that has shrunk is like the others.
    shrunk = await collection_cache.get(2)
    for number in range(129):
        shrunk.destroy(b"2:%d" % number)
    collection_cache.weigh(shrunk)
    await filled(collection_cache, range(3000, 3160))
    collection_cache.make_room(lambda _: True)
    assert 1000 not in present(collection_cache)
    assert 2 in present(collection_cache)


async def test_others_are_served_while_a_large_collection_is_read(
    runner: asyncio.Runner, sqlcipher_store: SQLCipherStore
) -> None:
    """While a large collection is read in slices, only requests of its UID wait."""
    server = Server(runner, sqlcipher_store)
    credentials = [parse_credential(credential_bytes(service(number))) for number in range(1000)]
    await server.change(1000, lambda each: each.replace(b"1000", ALICE, 0, credentials, None))
    await server.change(2000, lambda each: each.initialize(b"2000", ALICE, None))
    again = server.restarted()
    answered: list[int] = []

    async def ask(uid: int) -> None:
        await answer(again.dispatcher, peer(uid), frame(Opcode.GET_PRINCIPAL, b"%d\0" % uid))
        answered.append(uid)

    await asyncio.gather(*[ask(uid) for uid in (1000, 1000, 2000, 2000)])
    assert answered == [2000, 2000, 1000, 1000]
    assert again.store.loads == [1000, 2000]


def test_list_of_all_users_holds_one_queue_at_a_time(runner: asyncio.Runner, store: Store) -> None:
    """Root's list of all users' ccaches occupies one UID's queue at a time."""
    server = Server(runner, store, root_lists_all=True)
    for uid in (1000, 2000, 3000):
        server.ask_as(uid).initialize(b"%d" % uid, ALICE)
    again = Server(runner, store, root_lists_all=True)
    occupied = []
    load = again.store.load

    async def loading(uid: int, pause: Pause | None = None) -> Loaded:
        occupied.append((again.engine.uid_queues.occupied, len(again.collection_cache)))
        return await load(uid, pause)

    again.store.load = loading  # type: ignore[method-assign]
    assert len(again.ask_as(0).get_cache_uuid_list()) == 3
    assert occupied == [(1, 0)] * 4


async def test_list_of_all_users_yields_after_each_uid(runner: asyncio.Runner, store: Store) -> None:
    """Root's list of all users' ccaches yields to the event loop after each UID."""
    server = Server(runner, store, root_lists_all=True)
    for uid in range(1000, 1050):
        await server.change(uid, lambda each: each.initialize(b"%d" % each.uid, ALICE, None))
    listing = asyncio.ensure_future(
        answer(server.dispatcher, peer(0), frame(Opcode.GET_CACHE_UUID_LIST, b""))
    )
    turns = 0
    while not listing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 50
