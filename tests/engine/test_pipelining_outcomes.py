"""Refusals, conflicts, unknown outcomes and cancelled callers while changes of a UID are not durable."""

import asyncio
import errno

import pytest

from pykcm.engine.engine import Collections
from pykcm.engine.events import Kind, Watch
from pykcm.protocol.codes import Code, KcmError
from pykcm.store.interface import (
    Committed,
    Conflict,
    StoreError,
    Unknown,
)
from pykcm.store.memory import MemoryStore
from tests.engine.held_store import QUOTAS, UID, HeldStore, Host, code_of, creating, names, refused
from tests.server.waiting import settle, until


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
    """A function that raises an exception has changed nothing; the changes of others stay."""

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
