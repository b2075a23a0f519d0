"""The reaper removes ccaches whose tickets expired `expired_retention` ago, and no others."""

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pykcm.engine import reaper as reaper_module
from pykcm.protocol.codes import Code
from pykcm.store.interface import Loaded, Pause, StoreError
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Delete, DeleteContainer, Put, Secret, ccaches_container
from tests.builders import ALICE, TGS, changed, refused, ticket
from tests.engine.reaping import DUE, ENDS, LASTING, RETENTION, TICKET, fill, reap
from tests.server.asking import Server
from tests.server.programs import listed
from tests.storing import EMBEDDED_STORES, commit_changes, secrets_of


@pytest.mark.parametrize("in_memory", [True, False], ids=["in memory", "not in memory"])
def test_due_ccache_is_removed_and_logged(
    server: Server, caplog: pytest.LogCaptureFixture, in_memory: bool
) -> None:
    """A ccache is removed `retention` seconds after the end of its last ticket, and a line is logged."""
    caplog.set_level(logging.INFO)
    fill(server, 1000, 2000)
    server.ask_as(1000).replace(b"1000:l", 0, ALICE, [TICKET, ticket(ends=ENDS + 1).blob])
    server.ask_as(1000).replace(b"1000:n", 0, ALICE, [TICKET, ticket(changed(TGS, realm=b"R"), ends=0).blob])
    if not in_memory:
        server = server.restarted()
    reap(server, DUE - 1)
    assert server.runner.run(server.store.count_ccaches()) == 4
    reap(server, DUE)
    for each in (server, server.restarted()):
        assert listed(each.ask_as(1000)) == [b"1000:l", b"1000:n"]
        assert listed(each.ask_as(2000)) == []
    lines = [(r.getMessage(), r.__dict__["KCM_UID"], r.__dict__["KCM_REASON"]) for r in caplog.records]
    assert sorted(lines) == [
        (f"UID {uid}: expired ccache KCM:{uid} removed (expired_retention)", uid, "expired_retention")
        for uid in (1000, 2000)
    ]
    assert server.runner.run(secrets_of(server.store, 2000)) == []


def test_ccache_without_tickets_is_removed_after_an_hour(server: Server) -> None:
    """A ccache that never got a ticket is removed, but not while a client is about to store one."""
    alice = server.ask_as(1000)
    server.clock.now = DUE
    alice.initialize(b"1000", ALICE)
    reap(server, DUE + RETENTION)
    alice.get_principal(b"1000")
    reap(server, DUE + RETENTION + 3600)
    with refused(Code.FCC_NOFILE):
        alice.get_principal(b"1000")


def test_default_falls_back_when_its_ccache_is_removed(server: Server) -> None:
    """The remaining ccache takes the place of a removed default; the choice is kept, also in the store."""
    alice = server.ask_as(1000)
    alice.replace(b"1000:a", 0, ALICE, [TICKET])
    alice.replace(b"1000:b", 0, ALICE, [ticket(ends=ENDS + 10).blob])
    alice.set_default_cache(b"1000:a")
    reap(server, DUE)
    for each in (alice, server.restarted().ask_as(1000)):
        assert (each.get_default_cache(), listed(each)) == (b"1000:b", [b"1000:b"])
    reap(server, DUE + 10)
    for each in (alice, server.restarted().ask_as(1000)):
        assert (each.get_default_cache(), listed(each)) == (b"1000:a", [])


def test_collection_read_by_the_reaper_is_not_cached(server: Server) -> None:
    """A collection that no user requested does not stay in the cache; one that was cached does."""
    fill(server, 1000, 2000)
    server = server.restarted()
    server.ask_as(1000).get_default_cache()
    reap(server)
    assert server.collection_cache.present(1000) is not None
    assert server.collection_cache.present(2000) is None


def test_only_collections_with_due_ccaches_are_read(server: Server) -> None:
    """The reaper reads no collection without a due ccache."""
    fill(server, 1000)
    fill(server, *range(2000, 2010), blob=LASTING)
    server = server.restarted()
    reap(server)
    assert server.store.loads == [1000]
    reap(server)
    assert server.store.loads == [1000]
    assert len(server.store.commits) == 1


@pytest.fixture
def statements(open_sqlcipher: Callable[[], SQLCipherStore]) -> Iterator[tuple[SQLCipherStore, list[str]]]:
    """A database, and the statements that it executes."""
    store = open_sqlcipher()
    said: list[str] = []
    store._db.set_trace_callback(said.append)
    yield store, said
    store._db.set_trace_callback(None)


def test_cost_does_not_depend_on_ccaches_that_are_not_due(
    runner: asyncio.Runner, statements: tuple[SQLCipherStore, list[str]]
) -> None:
    """The database does the same work with and without 2,000 ccaches that are not due."""
    store, said = statements
    server = Server(runner, store)
    work, steps = [], []
    store._db.set_progress_handler(lambda: steps.append(1), 1)
    for others in (0, 40):
        for uid in range(3000, 3000 + others):
            for number in range(50):
                server.ask_as(uid).replace(b"%d:%d" % (uid, number), 0, ALICE, [LASTING])
        server.clock.now = 1500
        fill(server, 1000)
        server = server.restarted()
        said.clear()
        steps.clear()
        reap(server)
        work.append(([statement.split()[:3] for statement in said], len(steps)))
    assert work[0][0] == work[1][0]
    # A search goes through a few more pages of a larger index, and never along it.
    assert work[1][1] <= 1.2 * work[0][1]


def test_removal_of_large_ccaches_takes_several_commits(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One commit removes a bounded number of bytes: others do not wait for all of a UID's ccaches."""
    for number in range(7):
        server.ask_as(1000).replace(b"1000:%d" % number, 0, ALICE, [TICKET])
    [size, *_] = [ccache.size for ccache in server.runner.run(server.collection_cache.get(1000))]
    monkeypatch.setattr(reaper_module, "_BYTES_AT_A_TIME", 2 * size)
    server.store.commits.clear()
    reap(server)
    assert server.runner.run(server.store.count_ccaches()) == 0
    commits = server.store.commits
    removed = [sum(isinstance(each, Delete | DeleteContainer) for each in commit) // 2 for commit in commits]
    assert removed == [2, 2, 2, 1]


def test_all_due_ccaches_are_removed_in_one_round(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """All due ccaches are removed in one round, also if the store lists few at a time."""
    monkeypatch.setattr(reaper_module, "_AT_A_TIME", 3)
    for number in range(10):
        server.ask_as(1000 + number % 4).replace(b"%d:%d" % (1000 + number % 4, number), 0, ALICE, [TICKET])
    reap(server)
    assert server.runner.run(server.store.count_ccaches()) == 0


@pytest.fixture
def broken(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """UID 1000 has a due ccache that cannot be read; UIDs 1000 and 2000 have a readable one each."""
    monkeypatch.setattr(reaper_module, "_AT_A_TIME", 1)
    alice = server.ask_as(1000)
    alice.replace(b"1000:broken", 0, ALICE, [ticket(ends=1).blob])
    fill(server, 1000, 2000)
    (secret,) = [
        each for each in server.runner.run(secrets_of(server.store, 1000)) if each.name.endswith("broken")
    ]
    server.runner.run(
        commit_changes(server.store.inner, [Put(secret.container, secret.name, b"?", secret.expires)])
    )
    return server.restarted()


def test_unreadable_ccache_is_kept(broken: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A ccache whose secrets cannot be read is kept, and the others are removed."""
    before = [
        s for s in broken.runner.run(secrets_of(broken.store, 1000)) if "broken" in s.container + s.name
    ]
    reap(broken)
    assert broken.runner.run(secrets_of(broken.store, 1000)) == before
    assert len(before) == 2
    assert broken.runner.run(secrets_of(broken.store, 2000)) == []
    with refused(errno.EIO):
        broken.ask_as(1000).get_principal(b"1000:broken")


@EMBEDDED_STORES
def test_secret_of_another_kind_is_kept(server: Server) -> None:
    """A secret with an expiry that is not a ccache is kept, and ccaches are removed."""
    strange = Put(ccaches_container(1000), "no ccache", b"{}", 1)
    server.runner.run(commit_changes(server.store.inner, [strange]))
    fill(server, 1000)
    server.ask_as(1000).replace(b"1000:l", 0, ALICE, [LASTING])
    reap(server)
    assert listed(server.ask_as(1000)) == [b"1000:l"]
    assert Secret(*strange) in server.runner.run(secrets_of(server.store, 1000))


@pytest.mark.parametrize(
    "error", [StoreError("the disk is full", errno.ENOSPC), RuntimeError("a bug")], ids=["store", "bug"]
)
@pytest.mark.parametrize("where", ["load", "commit"])
def test_failure_for_one_uid_does_not_affect_others(
    server: Server, caplog: pytest.LogCaptureFixture, where: str, error: Exception
) -> None:
    """A failure is logged with its UID; the other UIDs' ccaches are removed, and its own the next time."""
    fill(server, 1000, 2000, 3000)
    server = server.restarted()
    inner = server.store.load

    async def failing(uid: int, pause: Pause | None = None) -> Loaded:
        if uid == 2000:
            raise error
        return await inner(uid)

    def refusal(changes: list[Any]) -> Exception | None:
        return error if any("/2000/" in change.container for change in changes) else None

    if where == "load":
        server.store.load = failing  # type: ignore[method-assign]
    else:
        server.store.refusal = refusal
    reap(server)
    assert server.runner.run(server.store.uids()) == [2000]
    *_, record = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.__dict__["KCM_UID"] == 2000
    assert "UID 2000" in record.getMessage()
    server.store.load = inner  # type: ignore[method-assign]
    server.store.refusal = lambda _: None
    assert listed(server.ask_as(2000)) == [b"2000"]
    reap(server)
    assert server.runner.run(server.store.uids()) == []
