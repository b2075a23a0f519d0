"""Group commit: entries of one iteration of the event loop are one transaction, each with its own outcome."""

import asyncio
import errno
from typing import Any

import pytest

from pykcm.engine.committer import Committer
from pykcm.store.interface import Committed, Entry, Outcome, Refused, StoreError, Unknown
from pykcm.store.memory import MemoryStore
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, SecretChange, uid_container
from tests.server.asking import ScriptedStore
from tests.server.waiting import settle, until
from tests.storing import secrets_of


def change(number: int, uid: int = 1000) -> Put:
    return Put(uid_container(uid), str(number), b"value")


@pytest.fixture
def store() -> ScriptedStore:
    """A memory store that records its commits."""
    return ScriptedStore(MemoryStore())


async def stored(store: Any) -> list[str]:
    """The names of the stored secrets."""
    return [secret.name for secret in await secrets_of(store, 1000)]


async def test_entries_of_one_iteration_are_one_transaction(store: ScriptedStore) -> None:
    """Entries of one iteration of the event loop are one commit, in their order."""
    committer = Committer(store)
    await asyncio.gather(
        *[committer.commit(Entry([change(number), change(number + 10)])) for number in range(3)]
    )
    assert store.commits == [[change(number) for number in (0, 10, 1, 11, 2, 12)]]


async def test_commit_returns_when_the_store_has_the_changes(store: ScriptedStore) -> None:
    """`commit` returns when the store has the changes, and not before."""
    store.gate = asyncio.Event()
    committer = Committer(store)
    task = asyncio.ensure_future(committer.commit(Entry([change(1)])))
    await until(lambda: store.commits)
    await settle()
    assert not task.done()
    store.gate.set()
    await task
    assert await stored(store) == ["1"]


async def test_entries_during_a_commit_are_the_next_transaction(store: ScriptedStore) -> None:
    """Entries that come during a commit are one transaction after it: never two at a time."""
    store.gate = asyncio.Event()
    committer = Committer(store)
    tasks = [asyncio.ensure_future(committer.commit(Entry([change(1)])))]
    await until(lambda: store.commits)
    tasks += [asyncio.ensure_future(committer.commit(Entry([change(number)]))) for number in (2, 3)]
    await settle()
    assert store.commits == [[change(1)]]
    store.gate.set()
    await asyncio.gather(*tasks)
    # A later iteration finds it ready again.
    await committer.commit(Entry([change(4)]))
    assert store.commits == [[change(1)], [change(2), change(3)], [change(4)]]


async def later(iterations: int, committer: Committer, number: int) -> None:
    """Commit an entry after so many iterations of the event loop."""
    for _ in range(iterations):
        await asyncio.sleep(0)
    await committer.commit(Entry([change(number)]))


async def test_commit_after_a_shared_one_waits_for_more_entries(store: ScriptedStore) -> None:
    """After a commit of several entries the next one waits while each iteration brings more, up to four."""
    committer = Committer(store)
    await asyncio.gather(*[later(0, committer, number) for number in (1, 2)])
    await asyncio.gather(*[later(number - 3, committer, number) for number in range(3, 12)])
    assert store.commits[0] == [change(1), change(2)]
    assert store.commits[1] == [change(number) for number in range(3, 8)]


async def test_commit_after_a_shared_one_waits_no_longer_than_entries_come(store: ScriptedStore) -> None:
    """After a commit of three entries a single entry is committed when an iteration brings no other."""
    committer = Committer(store)
    await asyncio.gather(*[later(0, committer, number) for number in (1, 2, 3)])
    store.gate = asyncio.Event()
    tasks = [asyncio.ensure_future(later(iterations, committer, iterations)) for iterations in (0, 10)]
    for _ in range(8):
        await asyncio.sleep(0)
    assert store.commits[1:] == [[change(0)]]
    store.gate.set()
    await asyncio.gather(*tasks)


async def test_first_commit_waits_for_one_iteration(store: ScriptedStore) -> None:
    """Where commits are not shared, none waits for entries that later iterations bring."""
    committer = Committer(store)
    await asyncio.gather(*[later(3 * number, committer, number) for number in range(4)])
    assert store.commits == [[change(number)] for number in range(4)]


class Repeated:
    """Changes that are submitted again when they are committed, three times in all."""

    size = 10
    operations = 1

    def __init__(self, committer: Committer) -> None:
        self.events: list[str] = []
        self.ended = asyncio.Event()
        self._committer = committer

    def take(self) -> Entry:
        self.events.append("commit")
        return Entry([change(1)])

    def end(self, outcome: Outcome) -> None:
        asyncio.get_running_loop().call_soon(self.events.append, "others")
        if self.events.count("commit") < 3:
            self._committer.submit(self)
        else:
            self.ended.set()


async def test_others_run_between_commits_of_one_uid(store: ScriptedStore) -> None:
    """A UID with more changes than are committed together does not keep the event loop for all of them."""
    committer = Committer(store)
    repeated = Repeated(committer)
    committer.submit(repeated)
    await repeated.ended.wait()
    await settle()
    assert repeated.events == ["commit", "others"] * 3


async def test_large_entries_are_committed_separately(store: ScriptedStore) -> None:
    """Small entries wait for one large commit and not for all; few large ones are committed together."""
    mib = 1024 * 1024
    committer = Committer(store)
    large = [committer.commit(Entry([change(number)], size=4 * mib)) for number in range(10, 13)]
    middle = [committer.commit(Entry([change(number)], size=400 * 1024)) for number in range(20, 24)]
    small = [committer.commit(Entry([change(number)], size=1000)) for number in range(30, 33)]
    await asyncio.gather(*large, *middle, *small)
    assert store.commits == [
        [change(30), change(31), change(32)],
        [change(20), change(21)],
        [change(10)],
        [change(22), change(23)],
        [change(11)],
        [change(12)],
    ]


async def test_small_entries_during_a_large_commit_are_next(store: ScriptedStore) -> None:
    """Small entries that come during a large commit are committed before the next large one."""
    committer = Committer(store)
    store.gate = asyncio.Event()
    large = [
        asyncio.ensure_future(committer.commit(Entry([change(number)], size=2**22))) for number in range(3)
    ]
    await until(lambda: store.commits)
    small = asyncio.ensure_future(committer.commit(Entry([change(9)], size=10)))
    await settle()
    store.gate.set()
    await asyncio.gather(small, *large)
    assert store.commits == [[change(0)], [change(9)], [change(1)], [change(2)]]


def refuses(number: int, error: Exception) -> Any:
    """A store that refuses each commit that has this change."""

    def refusal(changes: list[SecretChange]) -> Exception | None:
        return error if change(number) in changes else None

    return refusal


async def test_refused_entry_does_not_affect_the_others(store: ScriptedStore) -> None:
    """An entry that the store refuses is Refused, and the others of the transaction are committed."""
    store.refusal = refuses(2, StoreError("no", errno.ENOSPC))
    committer = Committer(store)
    results = await asyncio.gather(*[committer.commit(Entry([change(number)])) for number in (1, 2, 3)])
    assert [type(result) for result in results] == [Committed, Refused, Committed]
    assert isinstance(results[1], Refused)
    assert results[1].error.code == errno.ENOSPC
    store.refusal = lambda _: None
    await committer.commit(Entry([change(4)]))
    assert await stored(store) == ["1", "3", "4"]


async def test_failing_store_refuses_every_entry(store: ScriptedStore) -> None:
    """A store that fails refuses every entry; the next entries can be committed when it works again."""
    store.refusal = lambda _: StoreError("disk on fire")
    committer = Committer(store)
    for count in (1, 3):
        results = await asyncio.gather(
            *[committer.commit(Entry([change(number)])) for number in range(count)],
        )
        assert [type(result) for result in results] == [Refused] * count
    store.refusal = lambda _: None
    await committer.commit(Entry([change(7)]))
    assert await stored(store) == ["7"]


async def test_exception_in_the_store_leaves_outcomes_unknown(store: ScriptedStore) -> None:
    """After an exception in the store the outcome of each entry is Unknown, and no caller waits for ever."""
    store.refusal = refuses(1, ZeroDivisionError())
    committer = Committer(store)
    results = await asyncio.gather(*[committer.commit(Entry([change(number)])) for number in (1, 2)])
    assert [type(result) for result in results] == [Unknown, Unknown]


async def test_cancelled_caller_does_not_affect_the_others(store: ScriptedStore) -> None:
    """The entry of a caller that is cancelled during the commit is committed with the others."""
    store.gate = asyncio.Event()
    committer = Committer(store)
    gone, here = (asyncio.ensure_future(committer.commit(Entry([change(number)]))) for number in (1, 2))
    await until(lambda: store.commits)
    gone.cancel()
    await asyncio.wait([gone])
    store.gate.set()
    await here
    await committer.commit(Entry([change(3)]))
    assert await stored(store) == ["1", "2", "3"]


async def test_error_in_counting_does_not_keep_callers_waiting(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If commits cannot be counted, callers get their outcomes all the same."""

    def fail(*_: object) -> None:
        raise RuntimeError("cannot be counted")

    monkeypatch.setattr(Committer, "_count", fail)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    committer = Committer(store)
    for first in (1, 3):
        together = asyncio.gather(
            *(committer.commit(Entry([change(number)])) for number in (first, first + 1))
        )
        await asyncio.wait_for(together, 20)
    await asyncio.wait_for(committer.commit(Entry([change(5)])), 20)
    assert await stored(store) == ["1", "2", "3", "4", "5"]


async def test_refused_entry_is_undone_alone_on_sqlcipher(open_sqlcipher: Any) -> None:
    """On the SQLCipher store, an entry that cannot be made undoes its own changes and no others."""
    store: SQLCipherStore = open_sqlcipher()
    impossible: Any = object()
    committer = Committer(store)
    results = await asyncio.gather(
        committer.commit(Entry([change(1)])),
        committer.commit(Entry([change(2), Put(uid_container(1000), "x", impossible)])),
        committer.commit(Entry([change(3)])),
    )
    assert [type(result) for result in results] == [Committed, Refused, Committed]
    assert await stored(store) == ["1", "3"]


async def test_interrupted_commit_is_answered_to_all(store: ScriptedStore) -> None:
    """All callers get an outcome if a commit is interrupted, and the next commit is made."""
    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
    committer = Committer(store)
    store.gate = asyncio.Event()
    store.refusal = lambda _: asyncio.CancelledError()
    tasks = [asyncio.ensure_future(committer.commit(Entry([change(number)]))) for number in (1, 2)]
    await until(lambda: store.commits)
    tasks.append(asyncio.ensure_future(committer.commit(Entry([change(3)]))))
    await settle()
    store.gate.set()
    outcomes = await asyncio.gather(*tasks)
    assert [type(each) for each in outcomes] == [Unknown, Unknown, Refused]
    store.refusal = lambda _: None
    await committer.commit(Entry([change(4)]))
    assert await stored(store) == ["4"]
