"""Collections in memory: read once, forgotten when in doubt; and the count of all ccaches."""

import asyncio
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Loaded, Pause, Store, StoreError
from pykcm.store.keys import Key
from pykcm.store.memory import MemoryStore
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, ccache_name, ccaches_container
from tests.builders import ALICE, TGS, credential_bytes, peer, principal_bytes, refused, service
from tests.server.asking import ScriptedStore, Server, answer, frame, unpack
from tests.server.waiting import settle, until
from tests.storing import commit_changes


@pytest.fixture
def sqlcipher_store(tmp_path: Path) -> Iterator[SQLCipherStore]:
    store = SQLCipherStore(tmp_path / "pykcm.db", Key(bytes(32), tmp_path))
    yield store
    store.close()


def test_read_once(runner: asyncio.Runner, store: Store) -> None:
    """A collection is read when it is first asked for, and is the same one from then on."""
    scripted = ScriptedStore(store)
    collection_cache = CollectionCache(scripted, Quotas())
    assert collection_cache.present(1000) is None
    collection = runner.run(collection_cache.get(1000))
    assert collection_cache.present(1000) is collection
    assert runner.run(collection_cache.get(1000)) is collection
    assert scripted.loads == [1000]
    collection_cache.drop(1000)
    assert collection_cache.present(1000) is None
    assert runner.run(collection_cache.get(1000)) is not collection
    assert scripted.loads == [1000, 1000]


def test_a_store_that_cannot_be_read(runner: asyncio.Runner, store: Store) -> None:
    """A collection that cannot be read is not there: the next who asks tries again."""
    scripted = ScriptedStore(store)
    collection_cache = CollectionCache(scripted, Quotas())

    async def failing(uid: int, pause: Pause) -> None:
        raise StoreError("no", errno.EIO)

    read = scripted.load
    scripted.load = failing  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError):
        runner.run(collection_cache.get(1000))
    assert collection_cache.present(1000) is None
    scripted.load = read  # type: ignore[method-assign]
    assert runner.run(collection_cache.get(1000)).uid == 1000


def limited(runner: asyncio.Runner, store: Store, limit: int) -> Server:
    return Server(runner, store, quotas=Quotas(max_ccaches=limit))


def test_all_count_after_a_restart(runner: asyncio.Runner, store: Store) -> None:
    """max_ccaches counts what is in the store, whoever has asked so far."""
    limited(runner, store, 2).ask_as(1000).initialize(b"1000", ALICE)
    again = limited(runner, store, 2)
    again.ask_as(2000).initialize(b"2000", ALICE)
    with refused(errno.EDQUOT):
        again.ask_as(3000).initialize(b"3000", ALICE)
    again.ask_as(1000).destroy(b"1000")
    again.ask_as(3000).initialize(b"3000", ALICE)


def test_unreadable_ccaches_count(runner: asyncio.Runner, store: Store) -> None:
    """A ccache that cannot be read counts until it is destroyed, before and after it was noticed."""
    name = ccache_name(bytes(16), b"1000")
    runner.run(commit_changes(store, [Put(ccaches_container(1000), name, b"?")]))
    server = limited(runner, store, 1)
    for _ in range(2):
        with refused(errno.EDQUOT):
            server.ask_as(2000).initialize(b"2000", ALICE)
        assert server.ask_as(1000).get_cache_uuid_list() == []
    server.ask_as(1000).destroy(b"1000")
    server.ask_as(2000).initialize(b"2000", ALICE)


def test_refused_ones_do_not_count(runner: asyncio.Runner, store: Store) -> None:
    """A ccache whose creation was refused by another quota takes no place."""
    server = Server(runner, store, quotas=Quotas(max_ccaches=1, max_ccache_size=2200))
    long = ALICE._replace(realm=b"R" * 100)
    for _ in range(3):
        with refused(errno.EDQUOT):
            server.ask_as(1000).initialize(b"1000", long)
    server.ask_as(1000).initialize(b"1000", ALICE)


@pytest.mark.parametrize("uid", [1000, 2000], ids=["the same UID", "another UID"])
def test_the_limit_holds_after_a_failed_commit(runner: asyncio.Runner, store: Store, uid: int) -> None:
    """A commit that failed changes nothing about the count, nor lets anyone past the limit."""
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


def test_a_failed_commit_leaves_the_count_of_others_alone(runner: asyncio.Runner, store: Store) -> None:
    """While one user's ccache waits for its commit, another's that failed does not make it uncounted."""
    server = limited(runner, store, 2)

    def create(uid: int) -> asyncio.Future[Any]:
        arguments = b"%d\0" % uid + principal_bytes(ALICE)
        return asyncio.ensure_future(
            answer(server.dispatcher, peer(uid), frame(Opcode.INITIALIZE, arguments))
        )

    async def scenario() -> list[int]:
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
        return [unpack(reply)[0] for reply in replies]

    assert runner.run(scenario()) == [errno.ENOSPC, 0, 0, errno.EDQUOT]
    assert runner.run(store.count_ccaches()) == 2


def test_without_the_limit_nothing_is_counted(runner: asyncio.Runner, store: Store) -> None:
    """Without max_ccaches the store is not asked to count."""
    server = Server(runner, store)

    async def counting() -> int:
        raise AssertionError("nobody needs to know")

    server.store.count_ccaches = counting  # type: ignore[method-assign]
    server.ask_as(1000).initialize(b"1000", ALICE)


def filled(collection_cache: CollectionCache, runner: asyncio.Runner, uids: Sequence[int]) -> None:
    for uid in uids:
        collection = runner.run(collection_cache.get(uid))
        collection.initialize(b"%d" % uid, ALICE, None)
        collection.take_changes()
        collection_cache.weigh(collection)


def present(collection_cache: CollectionCache) -> set[int]:
    # Not by `present`, which is a use.
    return set(collection_cache._collections)


@pytest.fixture
def footprint(runner: asyncio.Runner) -> int:
    """Of a collection with one empty ccache."""
    collection_cache = CollectionCache(MemoryStore(), Quotas())
    filled(collection_cache, runner, [1000])
    return runner.run(collection_cache.get(1000)).footprint


def test_the_least_recently_used_goes(runner: asyncio.Runner, store: Store, footprint: int) -> None:
    """What does not fit is forgotten, beginning with what was used longest ago."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=3 * footprint)
    filled(collection_cache, runner, [1000, 2000, 3000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {1000, 2000, 3000}
    collection_cache.present(1000)
    filled(collection_cache, runner, [4000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {1000, 3000, 4000}


def test_in_turn(runner: asyncio.Runner, store: Store, footprint: int) -> None:
    """What is in somebody's turn stays, and so does what was used last, however large."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=1)
    filled(collection_cache, runner, [1000, 2000, 3000])
    collection_cache.make_room(lambda uid: uid != 1000)
    assert present(collection_cache) == {1000, 3000}
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {3000}


def test_without_limit(runner: asyncio.Runner, store: Store) -> None:
    """A cache size of 0 is no limit."""
    collection_cache = CollectionCache(store, Quotas())
    filled(collection_cache, runner, range(1000, 1100))
    collection_cache.make_room(lambda _: True)
    assert len(present(collection_cache)) == 100


def test_dropping_gives_room(runner: asyncio.Runner, store: Store, footprint: int) -> None:
    """What was dropped after a failure counts no longer, and what shrank counts less."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=5 * footprint // 2)
    filled(collection_cache, runner, [1000, 2000])
    collection_cache.drop(1000)
    filled(collection_cache, runner, [3000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2000, 3000}
    shrunk = runner.run(collection_cache.get(2000))
    shrunk.destroy(b"2000")
    collection_cache.weigh(shrunk)
    filled(collection_cache, runner, [4000])
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2000, 3000, 4000}


def test_read_again(runner: asyncio.Runner, store: Store) -> None:
    """What fell out of memory is read again when it is asked for, with everything that was stored."""
    server = Server(runner, store, cache_size=1)
    for uid in (1000, 2000, 3000):
        asking = server.ask_as(uid)
        asking.initialize(b"%d" % uid, ALICE)
        asking.store(b"%d" % uid, credential_bytes(TGS))
    assert present(server.collection_cache) == {3000}
    assert server.ask_as(1000).get_cred_list(b"1000") == [credential_bytes(TGS)]
    assert present(server.collection_cache) == {1000}
    assert server.store.loads == [1000, 2000, 3000, 1000]


def test_listing_everyone(runner: asyncio.Runner, store: Store) -> None:
    """Root's list of everyone's ccaches needs all of them at once, and leaves memory as small as before."""
    server = Server(runner, store, cache_size=1, root_lists_all=True)
    for uid in (1000, 2000, 3000):
        server.ask_as(uid).initialize(b"%d" % uid, ALICE)
    assert len(server.ask_as(0).get_cache_uuid_list()) == 3
    assert len(present(server.collection_cache)) == 1


def test_large_collections_go_first(runner: asyncio.Runner, store: Store, footprint: int) -> None:
    """A large collection goes before small ones that were used longer ago, the least recent one first."""
    collection_cache = CollectionCache(store, Quotas(), cache_size=200 * footprint)
    filled(collection_cache, runner, range(1000, 1050))
    for uid in (1, 2, 3):
        collection = runner.run(collection_cache.get(uid))
        for number in range(130):
            collection.initialize(b"%d:%d" % (uid, number), ALICE, None)
        collection_cache.weigh(collection)
        collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2, 3, *range(1000, 1050)}
    collection_cache.present(2)
    filled(collection_cache, runner, range(2000, 2060))
    collection_cache.make_room(lambda _: True)
    assert present(collection_cache) == {2, *range(1000, 1050), *range(2000, 2060)}
    # One that has shrunk is like the others.
    shrunk = runner.run(collection_cache.get(2))
    for number in range(129):
        shrunk.destroy(b"2:%d" % number)
    collection_cache.weigh(shrunk)
    filled(collection_cache, runner, range(3000, 3160))
    collection_cache.make_room(lambda _: True)
    assert 1000 not in present(collection_cache)
    assert 2 in present(collection_cache)


def test_others_are_served_while_a_big_collection_is_read(
    runner: asyncio.Runner, sqlcipher_store: SQLCipherStore
) -> None:
    """A UID whose collection is read in slices keeps nobody else waiting, only its own requests."""
    server = Server(runner, sqlcipher_store)
    server.ask_as(1000).replace(b"1000", 0, ALICE, [credential_bytes(service(n)) for n in range(1000)])
    server.ask_as(2000).initialize(b"2000", ALICE)
    again = server.restarted()
    answered: list[int] = []

    async def ask(uid: int) -> None:
        await answer(again.dispatcher, peer(uid), frame(Opcode.GET_PRINCIPAL, b"%d\0" % uid))
        answered.append(uid)

    async def all_at_once() -> None:
        await asyncio.gather(*[ask(uid) for uid in (1000, 1000, 2000, 2000)])

    runner.run(all_at_once())
    assert answered == [2000, 2000, 1000, 1000]
    assert again.store.loads == [1000, 2000]


def test_listing_everyone_holds_one_collection(runner: asyncio.Runner, store: Store) -> None:
    """Root's list of everyone's ccaches has one UID's turn at a time, and nobody waits for another's."""
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


def test_listing_everyone_lets_others_have_their_turn(runner: asyncio.Runner, store: Store) -> None:
    """Root's list of everyone's ccaches gives way to other requests after each UID."""
    server = Server(runner, store, root_lists_all=True)
    for uid in range(1000, 1050):
        server.ask_as(uid).initialize(b"%d" % uid, ALICE)

    async def scenario() -> int:
        listing = asyncio.ensure_future(
            answer(server.dispatcher, peer(0), frame(Opcode.GET_CACHE_UUID_LIST, b""))
        )
        turns = 0
        while not listing.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert runner.run(scenario()) >= 50
