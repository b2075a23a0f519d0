"""Group commit: what one turn of the loop brings is one transaction; each is told what became of its part."""

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any

import pytest

from pykcm.engine.committer import Committer
from pykcm.store.interface import Committed, Entry, Refused, StoreError, Unknown
from pykcm.store.memory import MemoryStore
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, Secret, SecretChange, uid_container
from tests.server.asking import ScriptedStore
from tests.server.waiting import settle, until
from tests.storing import secrets_of


def change(number: int, uid: int = 1000) -> Put:
    return Put(uid_container(uid), str(number), b"value")


@pytest.fixture
def store() -> ScriptedStore:
    """A memory store that tells what it was told."""
    return ScriptedStore(MemoryStore())


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def stored(store: ScriptedStore) -> list[str]:
    secrets: list[Secret] = asyncio.run(secrets_of(store, 1000))
    return [secret.name for secret in secrets]


def test_one_turn_is_one_transaction(store: ScriptedStore) -> None:
    """What comes in one turn of the loop is one commit, in the order in which it came."""

    async def scenario() -> None:
        committer = Committer(store)
        await asyncio.gather(
            *[committer.commit(Entry([change(number), change(number + 10)])) for number in range(3)]
        )

    run(scenario())
    assert store.commits == [[change(number) for number in (0, 10, 1, 11, 2, 12)]]


def test_not_before_it_is_durable(store: ScriptedStore) -> None:
    """`commit` returns when the store has the changes, and not before."""

    async def scenario() -> None:
        store.gate = asyncio.Event()
        committer = Committer(store)
        task = asyncio.ensure_future(committer.commit(Entry([change(1)])))
        await until(lambda: store.commits)
        await settle()
        assert not task.done()
        store.gate.set()
        await task

    run(scenario())
    assert stored(store) == ["1"]


def test_what_comes_meanwhile_is_the_next(store: ScriptedStore) -> None:
    """What comes while a commit is under way is one transaction after it: never two at a time."""

    async def scenario() -> None:
        store.gate = asyncio.Event()
        committer = Committer(store)
        tasks = [asyncio.ensure_future(committer.commit(Entry([change(1)])))]
        await until(lambda: store.commits)
        tasks += [asyncio.ensure_future(committer.commit(Entry([change(number)]))) for number in (2, 3)]
        await settle()
        assert store.commits == [[change(1)]]
        store.gate.set()
        await asyncio.gather(*tasks)
        # And a later turn finds it ready again.
        await committer.commit(Entry([change(4)]))

    run(scenario())
    assert store.commits == [[change(1)], [change(2), change(3)], [change(4)]]


def test_large_changes_are_committed_apart(store: ScriptedStore) -> None:
    """Small changes wait for one large commit and not for all; large ones are committed few at a time."""
    mib = 1024 * 1024

    async def scenario() -> None:
        committer = Committer(store)
        large = [committer.commit(Entry([change(number)], size=4 * mib)) for number in range(10, 13)]
        middle = [committer.commit(Entry([change(number)], size=400 * 1024)) for number in range(20, 24)]
        small = [committer.commit(Entry([change(number)], size=1000)) for number in range(30, 33)]
        await asyncio.gather(*large, *middle, *small)

    run(scenario())
    assert store.commits == [
        [change(30), change(31), change(32)],
        [change(20), change(21)],
        [change(10)],
        [change(22), change(23)],
        [change(11)],
        [change(12)],
    ]


def test_small_changes_that_come_meanwhile_are_next(store: ScriptedStore) -> None:
    """Small changes that come during a large commit are committed before the next large one."""

    async def scenario() -> None:
        committer = Committer(store)
        store.gate = asyncio.Event()
        large = [
            asyncio.ensure_future(committer.commit(Entry([change(number)], size=2**22)))
            for number in range(3)
        ]
        await until(lambda: store.commits)
        small = asyncio.ensure_future(committer.commit(Entry([change(9)], size=10)))
        await settle()
        store.gate.set()
        await asyncio.gather(small, *large)

    run(scenario())
    assert store.commits == [[change(0)], [change(9)], [change(1)], [change(2)]]


def refuses(number: int, error: Exception) -> Any:
    """A store that refuses each commit that has this change."""

    def refusal(changes: list[SecretChange]) -> Exception | None:
        return error if change(number) in changes else None

    return refusal


def test_a_failing_member(store: ScriptedStore) -> None:
    """One whose changes cannot be made is told so, and does not take the others with it."""
    store.refusal = refuses(2, StoreError("no", errno.ENOSPC))

    async def scenario() -> None:
        committer = Committer(store)
        results = await asyncio.gather(*[committer.commit(Entry([change(number)])) for number in (1, 2, 3)])
        assert [type(result) for result in results] == [Committed, Refused, Committed]
        assert isinstance(results[1], Refused)
        assert results[1].error.code == errno.ENOSPC
        store.refusal = lambda _: None
        await committer.commit(Entry([change(4)]))

    run(scenario())
    assert stored(store) == ["1", "3", "4"]


def test_a_failing_store(store: ScriptedStore) -> None:
    """Where nothing can be committed each is told so; afterwards the next can be."""
    store.refusal = lambda _: StoreError("disk on fire")

    async def scenario() -> None:
        committer = Committer(store)
        for count in (1, 3):
            results = await asyncio.gather(
                *[committer.commit(Entry([change(number)])) for number in range(count)],
            )
            assert [type(result) for result in results] == [Refused] * count
        store.refusal = lambda _: None
        await committer.commit(Entry([change(7)]))

    run(scenario())
    assert stored(store) == ["7"]


def test_a_bug_in_the_store(store: ScriptedStore) -> None:
    """After an exception of the store's the outcome is unknown to all, and nobody waits for ever."""
    store.refusal = refuses(1, ZeroDivisionError())

    async def scenario() -> None:
        committer = Committer(store)
        results = await asyncio.gather(*[committer.commit(Entry([change(number)])) for number in (1, 2)])
        assert [type(result) for result in results] == [Unknown, Unknown]

    run(scenario())


def test_one_that_does_not_wait_any_more(store: ScriptedStore) -> None:
    """One that was cancelled while its changes were under way hinders nobody."""

    async def scenario() -> None:
        store.gate = asyncio.Event()
        committer = Committer(store)
        gone, here = (asyncio.ensure_future(committer.commit(Entry([change(number)]))) for number in (1, 2))
        await until(lambda: store.commits)
        gone.cancel()
        await asyncio.wait([gone])
        store.gate.set()
        await here
        await committer.commit(Entry([change(3)]))

    run(scenario())
    assert stored(store) == ["1", "2", "3"]


def test_an_error_in_counting_keeps_nobody_waiting(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where commits cannot be counted, those who wait for them are told all the same, now and later."""

    def fail(*_: object) -> None:
        raise RuntimeError("cannot be counted")

    monkeypatch.setattr(Committer, "_count", fail)

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        committer = Committer(store)
        for first in (1, 3):
            together = asyncio.gather(
                *(committer.commit(Entry([change(number)])) for number in (first, first + 1))
            )
            await asyncio.wait_for(together, 20)
        await asyncio.wait_for(committer.commit(Entry([change(5)])), 20)

    run(scenario())
    assert stored(store) == ["1", "2", "3", "4", "5"]


def test_on_sqlcipher(open_sqlcipher: Any) -> None:
    """On the real store, too, a change that cannot be made undoes its own operation's and no other's."""
    store: SQLCipherStore = open_sqlcipher()
    impossible: Any = object()

    async def scenario() -> None:
        committer = Committer(store)
        results = await asyncio.gather(
            committer.commit(Entry([change(1)])),
            committer.commit(Entry([change(2), Put(uid_container(1000), "x", impossible)])),
            committer.commit(Entry([change(3)])),
        )
        assert [type(result) for result in results] == [Committed, Refused, Committed]

    run(scenario())
    assert [secret.name for secret in asyncio.run(secrets_of(store, 1000))] == ["1", "3"]


def test_an_interrupted_commit_is_told_to_all(store: ScriptedStore) -> None:
    """All that wait for a commit that ends by no ordinary exception are refused; the next one is made."""

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
        committer = Committer(store)
        store.gate = asyncio.Event()
        store.refusal = lambda _: asyncio.CancelledError()
        tasks = [asyncio.ensure_future(committer.commit(Entry([change(number)]))) for number in (1, 2)]
        await until(lambda: store.commits)
        tasks.append(asyncio.ensure_future(committer.commit(Entry([change(3)]))))
        await settle()
        store.gate.set()
        told = await asyncio.gather(*tasks)
        assert [type(each) for each in told] == [Unknown, Unknown, Refused]
        store.refusal = lambda _: None
        await committer.commit(Entry([change(4)]))

    run(scenario())
    assert stored(store) == ["4"]
