"""Memory of a store that other hosts change: it counts only while its version is the newest."""

import asyncio
import errno
from collections.abc import Sequence

import pytest

from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import CollectionNeededError, Collections, Engine
from pykcm.protocol.codes import Code, KcmError
from pykcm.store.interface import Blocked, Entry, Outcome, Refused, StoreError, Unknown
from tests.engine.shared_store import SharedStore
from tests.engine.test_engine import QUOTAS, UID, creating, host, names
from tests.server.waiting import settle, until


class HeldSharedStore(SharedStore):
    """Its commits are made at once, and answered when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: asyncio.Event | None = None

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        outcomes = await super().commit(entries)
        if self.answers is not None:
            await self.answers.wait()
        return outcomes


async def test_read_sees_the_changes_of_another_host() -> None:
    """A collection in memory is read again after another host has changed it, and only then."""
    store = SharedStore()
    one, two = host(store), host(store)
    assert await one.read((UID,), names(one), keep=True) == []
    await two.change((UID,), creating(b"1000:a"), keep=True)
    loads = store.loads
    assert await one.read((UID,), names(one), keep=True) == [b"1000:a"]
    assert await one.read((UID,), names(one), keep=True) == [b"1000:a"]
    assert store.loads == loads + 1


async def test_read_without_keeping_sees_the_changes_of_another_host() -> None:
    """A reader that does not keep the collection gets the newest one, too."""
    store = SharedStore()
    one, two = host(store), host(store)
    await one.read((UID,), names(one), keep=True)
    await two.change((UID,), creating(b"1000:a"), keep=True)
    assert await one.read((UID,), names(one)) == [b"1000:a"]


async def test_collection_that_was_just_read_is_not_asked_about() -> None:
    """A read from the store, and a commit, answer the question themselves."""
    store = SharedStore()
    one = host(store)
    await one.read((UID,), names(one), keep=True)
    await one.change((UID,), creating(b"1000:a"), keep=True)
    assert store.questions == []
    await one.read((UID,), names(one), keep=True)
    assert store.questions == [UID]


async def test_exception_follows_from_the_newest_version() -> None:
    """A ccache that another host has just made is found: FCC_NOFILE never comes from old memory."""
    store = SharedStore()
    one, two = host(store), host(store)

    def find(collections: Collections) -> bytes:
        if not collections[UID].has(b"1000:a"):
            raise KcmError(Code.FCC_NOFILE)
        return b"1000:a"

    for run in (one.read, one.change):
        with pytest.raises(KcmError):
            await run((UID,), find, keep=True)
    await two.change((UID,), creating(b"1000:a"), keep=True)
    assert await one.change((UID,), find, keep=True) == b"1000:a"


async def test_change_that_changes_nothing_sees_the_newest_version() -> None:
    """The result of a change without changes counts as that of a read."""
    store = SharedStore()
    one, two = host(store), host(store)
    await one.read((UID,), names(one), keep=True)
    await two.change((UID,), creating(b"1000:a"), keep=True)
    assert await one.change((UID,), names(one), keep=True) == [b"1000:a"]


async def test_collection_known_to_be_the_newest_is_answered_at_once() -> None:
    """Where notifications tell the newest versions, memory of another version does not count."""
    store = SharedStore()
    one, two = host(store), host(store)
    await one.read((UID,), names(one), keep=True)
    assert one.cached((UID,)) is None
    store.known[UID] = 0
    assert one.cached((UID,)) is not None
    await two.change((UID,), creating(b"1000:a"), keep=True)
    store.known[UID] = 1
    assert one.cached((UID,)) is None
    assert await one.read((UID,), names(one), keep=True) == [b"1000:a"]
    assert one.cached((UID,)) is not None


async def test_read_behind_a_commit_whose_answer_is_late_sees_what_followed_it() -> None:
    """Another host has changed the collection since: the state that was committed is old."""
    store = HeldSharedStore()
    one, two = host(store), host(store)
    await one.read((UID,), names(one), keep=True)
    store.answers = asyncio.Event()
    change = asyncio.ensure_future(one.change((UID,), creating(b"1000:a"), keep=True))
    await until(lambda: store.seen["Committed"])
    answers, store.answers = store.answers, None
    await two.change((UID,), creating(b"1000:b"), keep=True)
    read = asyncio.ensure_future(one.read((UID,), names(one), keep=True))
    await settle()
    assert not read.done()
    answers.set()
    await change
    assert await read == [b"1000:a", b"1000:b"]


async def test_read_again_does_not_repeat_a_change() -> None:
    """A change that failed in old memory runs again and is committed; it is made once."""
    store = SharedStore()
    one, two = host(store), host(store)
    await two.change((UID,), creating(b"1000:a"), keep=True)
    await one.read((UID,), names(one), keep=True)

    def remove(collections: Collections) -> None:
        collections[UID].destroy(b"1000:a")

    await two.change((UID,), remove, keep=True)
    # In memory the name is taken.
    await one.change((UID,), creating(b"1000:a"), keep=True)
    assert await two.read((UID,), names(two), keep=True) == [b"1000:a"]
    assert store.seen == {"Committed": 3}


async def test_functions_of_several_uids_see_the_newest_versions() -> None:
    """Old collections of each UID are read again before the function runs."""
    store = SharedStore()
    one, two = host(store), host(store)
    for uid in (UID, 2000):
        await one.read((uid,), names(one, uid), keep=True)
    await two.change((2000,), creating(b"2000:a", 2000), keep=True)

    def count(collections: Collections) -> int:
        if 2000 not in collections:
            raise CollectionNeededError(2000)
        return sum(len(list(collection)) for collection in collections.values())

    assert await one.read((UID,), count, keep=True) == 1


async def test_memory_counts_while_the_store_is_away_until_it_does_not() -> None:
    """An absence is no error for readers as long as memory counts; then it is one, and not in between."""
    store = SharedStore()
    one = host(store)
    await one.change((UID,), creating(b"1000:a"), keep=True)
    store.away = 0
    assert await one.read((UID,), names(one), keep=True) == [b"1000:a"]
    store.away = StoreError("away", errno.ETIMEDOUT)
    with pytest.raises(StoreError) as raised:
        await one.read((UID,), names(one), keep=True)
    assert raised.value.code == errno.ETIMEDOUT
    assert not one.uid_queues.occupied
    store.away = None
    assert await one.read((UID,), names(one), keep=True) == [b"1000:a"]


async def test_blocked_entry_holds_nobody_up() -> None:
    """An entry that another transaction blocks is tried again; the commits of others end meanwhile."""
    store = SharedStore()
    one = host(store)
    commit, attempts = store.commit, 0
    is_blocked = True

    async def block(entries: Sequence[Entry]) -> Sequence[Outcome | Blocked]:
        nonlocal attempts
        attempts += any(UID in entry.bases for entry in entries)
        return [
            Blocked(0.0) if is_blocked and UID in entry.bases else (await commit([entry]))[0]
            for entry in entries
        ]

    store.commit = block  # type: ignore[method-assign, assignment]
    blocked = asyncio.ensure_future(one.change((UID,), creating(b"1000:a"), keep=True))
    await one.change((2000,), creating(b"2000:a", 2000), keep=True)
    await until(lambda: attempts > 2)
    assert not blocked.done()
    is_blocked = False
    await blocked
    assert store.seen == {"Committed": 2}


async def test_slow_commit_holds_nobody_up() -> None:
    """A store that takes several commits at a time gets the next ones while one of them takes long."""
    store = HeldSharedStore()
    store.commits_at_once = 2
    one = host(store)
    store.answers = slow = asyncio.Event()
    held = asyncio.ensure_future(one.change((UID,), creating(b"1000:a"), keep=True))
    await until(lambda: store.seen["Committed"])
    store.answers = None
    await one.change((2000,), creating(b"2000:a", 2000), keep=True)
    assert not held.done()
    slow.set()
    await held


async def test_max_ccaches_counts_those_of_all_hosts() -> None:
    """A ccache too many is refused on a host that knows nothing of the others' ccaches."""
    store = SharedStore()
    quotas = QUOTAS._replace(max_ccaches=3)
    one, two = (Engine(store, CollectionCache(store, quotas)) for _ in range(2))
    await one.change((UID,), creating(b"1000:a"), keep=True)
    for name in (b"2000:a", b"2000:b"):
        await two.change((2000,), creating(name, 2000), keep=True)
    for engine in (one, two, one):
        with pytest.raises(KcmError) as raised:
            await engine.change((UID,), creating(b"1000:b"), keep=True)
        assert raised.value.code == errno.EDQUOT
        assert raised.value.reason == "max_ccaches reached by all users together: 3 of 3"


async def test_room_that_another_host_made_is_used() -> None:
    """A change is not refused by ccaches that another host has destroyed since."""
    store = SharedStore()
    quotas = QUOTAS._replace(max_ccaches=2)
    one, two = (Engine(store, CollectionCache(store, quotas)) for _ in range(2))
    for name in (b"1000:a", b"1000:b"):
        await one.change((UID,), creating(name), keep=True)
    await two.change((UID,), lambda collections: collections[UID].destroy(b"1000:a"), keep=True)
    await one.change((2000,), creating(b"2000:a", 2000), keep=True)
    assert await store.count_ccaches() == 2


async def test_collection_is_read_after_a_change_that_was_refused() -> None:
    """While the store can be neither written nor read, memory is as before the change that was refused."""
    store = SharedStore()
    one = host(store)
    await one.change((UID,), creating(b"1000:a"), keep=True)
    away = StoreError("away", errno.ETIMEDOUT)
    store.away = 0
    store.failure = away
    for name in (b"1000:b", b"1000:c"):
        store.outcomes = [Refused(away)]
        with pytest.raises(StoreError) as raised:
            await one.change((UID,), creating(name), keep=True)
        assert raised.value.code == errno.ETIMEDOUT
        assert await one.read((UID,), names(one), keep=True) == [b"1000:a"]
    store.away = store.failure = None
    await one.change((UID,), creating(b"1000:d"), keep=True)
    assert await one.read((UID,), names(one), keep=True) == [b"1000:a", b"1000:d"]
    assert store.loads == 1


@pytest.mark.parametrize("is_made", [True, False], ids=["made", "not made"])
async def test_collection_with_a_change_of_unknown_outcome_is_not_read_from_memory(is_made: bool) -> None:
    """Reads fail until the store can be read again, and then show whether the change was made."""
    store = SharedStore()
    one, other = host(store), host(store)
    for uid, name in ((UID, b"1000:a"), (2000, b"2000:a")):
        await one.change((uid,), creating(name, uid), keep=True)
    away = StoreError("away", errno.ETIMEDOUT)
    if is_made:
        await other.change((UID,), creating(b"1000:b"), keep=True)
    store.away = 0
    store.failure = away
    store.outcomes = [Unknown(away)]
    with pytest.raises(StoreError):
        await one.change((UID,), creating(b"1000:b"), keep=True)
    for _ in range(2):
        with pytest.raises(StoreError) as raised:
            await one.read((UID,), names(one), keep=True)
        assert raised.value.code == errno.ETIMEDOUT
    # Others are not affected.
    assert await one.read((2000,), names(one, 2000), keep=True) == [b"2000:a"]
    store.away = store.failure = None
    expected = [b"1000:a", b"1000:b"] if is_made else [b"1000:a"]
    assert await one.read((UID,), names(one), keep=True) == expected
