"""The reaper: what has expired long enough goes, at start and by interval, and nothing stands in its way."""

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pykcm.ccaches.expiry import EMPTY_LIFETIME
from pykcm.engine import reaper as reaper_module
from pykcm.engine.reaper import Reaper
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Loaded, Pause, StoreError
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Delete, DeleteContainer, Put, Secret, ccaches_container
from tests.builders import ALICE, TGS, credential_bytes, peer, principal, refused, ticket
from tests.server.asking import Asking, Server, answer, frame, unpack
from tests.server.waiting import settle, until
from tests.storing import commit_changes, secrets_of

RETENTION = 1000
ENDS = 2000
DUE = ENDS + RETENTION
TICKET = ticket(ends=ENDS).blob
LASTING = ticket(ends=10 * ENDS).blob


def reaper_of(server: Server) -> Reaper:
    return Reaper(server.engine, RETENTION, server.clock)


def reap(server: Server, now: int = DUE) -> None:
    server.clock.now = now
    server.runner.run(reaper_of(server).reap())


def fill(server: Server, *uids: int, blob: bytes = TICKET) -> None:
    for uid in uids:
        server.ask_as(uid).replace(b"%d" % uid, 0, ALICE, [blob])


def listed(asking: Asking) -> list[bytes]:
    return [asking.get_cache_by_uuid(uuid) for uuid in asking.get_cache_uuid_list()]


@pytest.mark.parametrize("in_memory", [True, False], ids=["in memory", "not in memory"])
def test_what_is_due_goes(server: Server, caplog: pytest.LogCaptureFixture, in_memory: bool) -> None:
    """A ccache goes when its last ticket ended the retention ago, and not before; each is told."""
    caplog.set_level(logging.INFO)
    fill(server, 1000, 2000)
    server.ask_as(1000).replace(b"1000:l", 0, ALICE, [TICKET, ticket(ends=ENDS + 1).blob])
    server.ask_as(1000).replace(b"1000:n", 0, ALICE, [TICKET, ticket(TGS._replace(realm=b"R"), ends=0).blob])
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
        (f"UID {uid}: expired ccache {uid} removed (expired_retention)", uid, "expired_retention")
        for uid in (1000, 2000)
    ]
    assert server.runner.run(secrets_of(server.store, 2000)) == []


def test_an_empty_ccache(server: Server) -> None:
    """A ccache that never got a ticket goes in the end, and not while a client is about to store one."""
    alice = server.ask_as(1000)
    server.clock.now = DUE
    alice.initialize(b"1000", ALICE)
    reap(server, DUE + RETENTION)
    alice.get_principal(b"1000")
    reap(server, DUE + RETENTION + 3600)
    with refused(Code.FCC_NOFILE):
        alice.get_principal(b"1000")


def test_the_default_stays_right(server: Server) -> None:
    """The ccache that is left takes the place of a default that went; the choice stays, in the store too."""
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


def forget_expiries(server: Server, uid: int) -> None:
    """Leave the UID's ccaches in the store as never expiring."""
    runner, store = server.runner, server.store.inner
    secrets = runner.run(secrets_of(store, uid))
    ccaches = [each for each in secrets if each.container == ccaches_container(uid)]
    runner.run(commit_changes(store, [Put(each.container, each.name, each.value) for each in ccaches]))


def run_at(server: Server, *times: int) -> None:
    """Let the reaper of a daemon that has just started run at these times."""
    left = iter(times)

    async def sleep(_: float) -> None:
        try:
            server.clock.now = next(left)
        except StopIteration:
            raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        server.runner.run(reaper_of(server).run(1, sleep))


ENTRY = credential_bytes(principal("Encrypted/Credentials/v1@X-GSSPROXY:"), times=(0, 0, 0, 0))


def test_what_an_older_version_kept_for_ever(server: Server) -> None:
    """Ccaches stored as never expiring for an entry in them go in time after a restart, and no other does."""
    fill(server, 1000, 2000, 3000)
    for uid in (1000, 3000):
        server.ask_as(uid).store(b"%d" % uid, ENTRY)
    server.ask_as(1000).replace(b"1000:entry alone", 0, ALICE, [ENTRY])
    server.ask_as(1000).replace(b"1000:unending", 0, ALICE, [ticket(ends=0).blob])
    server.ask_as(1000).replace(b"1000:lasting", 0, ALICE, [LASTING, ENTRY])
    for uid in (1000, 3000):
        forget_expiries(server, uid)
    server = server.restarted()
    run_at(server, DUE - 1)
    assert listed(server.ask_as(3000)) == [b"3000"]
    run_at(server, DUE)
    assert [listed(server.ask_as(uid)) for uid in (2000, 3000)] == [[], []]
    left = [b"1000:entry alone", b"1000:unending", b"1000:lasting"]
    assert listed(server.ask_as(1000)) == left
    # An hour, as an empty one has, begins with the first start of this version.
    run_at(server.restarted(), DUE - 1 + EMPTY_LIFETIME + RETENTION)
    assert listed(server.restarted().ask_as(1000)) == [b"1000:unending", b"1000:lasting"]
    run_at(server.restarted(), 10 * ENDS + RETENTION)
    assert listed(server.restarted().ask_as(1000)) == [b"1000:unending"]


def test_expiries_are_corrected_once(server: Server) -> None:
    """A daemon reads the ccaches that never expire once, and those of nobody else."""
    fill(server, 1000, 2000, blob=LASTING)
    forget_expiries(server, 1000)
    server = server.restarted()
    run_at(server, DUE, DUE, DUE)
    assert server.store.loads == [1000]
    assert server.collection_cache.present(1000) is None
    server = server.restarted()
    run_at(server, DUE)
    assert server.store.loads == []


def test_expiries_that_cannot_be_corrected(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Where the store refuses, the rest is reaped, users are not concerned, and it is tried the next time."""
    fill(server, 1000, 2000)
    forget_expiries(server, 1000)
    server = server.restarted()
    server.store.refusal = lambda changes: StoreError("full") if Put in map(type, changes) else None
    run_at(server, DUE)
    assert listed(server.ask_as(2000)) == []
    assert listed(server.ask_as(1000)) == [b"1000"]
    server.store.refusal = lambda _: None
    assert "full" in caplog.text
    run_at(server, DUE)
    assert listed(server.ask_as(1000)) == []


def test_a_collection_read_for_the_reaper_is_let_go(server: Server) -> None:
    """A collection that nobody has asked for is not kept in memory, one that was there is."""
    fill(server, 1000, 2000)
    server = server.restarted()
    server.ask_as(1000).get_default_cache()
    reap(server)
    assert server.collection_cache.present(1000) is not None
    assert server.collection_cache.present(2000) is None


def test_those_not_due_are_left_alone(server: Server) -> None:
    """Nothing of a UID without a ccache that is due is read, and where there is none at all nothing is."""
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
    """A database, and what it is told to do."""
    store = open_sqlcipher()
    said: list[str] = []
    store._db.set_trace_callback(said.append)
    yield store, said
    store._db.set_trace_callback(None)


def test_the_work_does_not_grow(runner: asyncio.Runner, statements: tuple[SQLCipherStore, list[str]]) -> None:
    """What the reaper has the database do is the same beside no and beside 2,000 ccaches that are not due."""
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


def test_large_ccaches_are_removed_apart(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed in one commit has a bound, so that nobody waits for all of a UID's expired ccaches."""
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


def test_more_than_are_asked_for_at_a_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is due goes in one round, also where the store tells of a few at a time."""
    monkeypatch.setattr(reaper_module, "_AT_A_TIME", 3)
    for number in range(10):
        server.ask_as(1000 + number % 4).replace(b"%d:%d" % (1000 + number % 4, number), 0, ALICE, [TICKET])
    reap(server)
    assert server.runner.run(server.store.count_ccaches()) == 0


@pytest.fixture
def broken(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """UID 1000 has a ccache due whose secret cannot be read; UIDs 1000 and 2000 have one each that can."""
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


def test_an_unreadable_ccache_stays(broken: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A ccache whose secrets cannot be read stays as it is, and does not keep the others from going."""
    before = [
        s for s in broken.runner.run(secrets_of(broken.store, 1000)) if "broken" in s.container + s.name
    ]
    reap(broken)
    assert broken.runner.run(secrets_of(broken.store, 1000)) == before
    assert len(before) == 2
    assert broken.runner.run(secrets_of(broken.store, 2000)) == []
    with refused(errno.EIO):
        broken.ask_as(1000).get_principal(b"1000:broken")


def test_secrets_that_are_no_ccaches_stay(server: Server) -> None:
    """A secret that expires and is no ccache is left where it is, and hinders nothing."""
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
def test_a_failure_stops_nobody_else(
    server: Server, caplog: pytest.LogCaptureFixture, where: str, error: Exception
) -> None:
    """A UID whose ccaches cannot be removed is told, the others' go; and its own go the next time."""
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


# When it reaps


class Sleep:
    """Sleeps until the test lets it go on."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._go_on = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._go_on.wait()
        self._go_on.clear()

    async def end(self) -> None:
        """Let the reaper go on, and wait until it sleeps again."""
        times = len(self.slept)
        self._go_on.set()
        await until(lambda: len(self.slept) > times)


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def test_at_start_and_by_interval(server: Server) -> None:
    """It reaps soon after start, and then when each interval has passed; a round that fails ends nothing."""
    fill(server, 1000)
    server.clock.now = DUE

    async def scenario() -> None:
        sleep = Sleep()
        task = asyncio.create_task(reaper_of(server).run(600, sleep))
        await until(lambda: sleep.slept)
        assert await server.store.count_ccaches() == 1
        await sleep.end()
        assert await server.store.count_ccaches() == 0
        expired = server.store.expired
        server.store.expired = unreadable  # type: ignore[method-assign,assignment]
        await sleep.end()
        server.store.expired = expired  # type: ignore[method-assign]
        await answer(server.dispatcher, peer(1000), replace(1000))
        await sleep.end()
        assert await server.store.count_ccaches() == 0
        assert sleep.slept == [1, 600, 600, 600]
        await ended(task)

    async def unreadable(*_: object) -> list[Any]:
        raise StoreError("no", errno.EIO)

    server.runner.run(scenario())


def replace(uid: int) -> Any:
    """A REPLACE of the ccache `<uid>` with a ticket that is due."""
    client = Recorder()
    client.replace(b"%d" % uid, 0, ALICE, [TICKET])
    return client.frames[0]


class Recorder(Asking):
    """A client whose requests go nowhere."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def call(self, opcode: int, arguments: bytes = b"") -> bytes:
        self.frames.append(frame(opcode, arguments))
        return b""


def test_in_turn(server: Server) -> None:
    """It waits for the UID's turn, others go on meanwhile, and what is valid again by then stays."""
    fill(server, 1000, 2000)
    server.clock.now = DUE

    async def scenario() -> None:
        server.store.commits.clear()
        server.store.gate = asyncio.Event()
        client = Recorder()
        client.replace(b"1000", 0, ALICE, [LASTING])
        renewing = asyncio.create_task(answer(server.dispatcher, peer(1000), client.frames[0]))
        await until(lambda: server.store.commits)
        task = asyncio.create_task(reaper_of(server).reap())
        await settle()
        assert not task.done()
        other = await answer(server.dispatcher, peer(3000), frame(Opcode.GET_DEFAULT_CACHE))
        assert unpack(other)[0] == 0
        server.store.gate.set()
        assert unpack(await renewing) == (0, b"")
        await task

    server.runner.run(scenario())
    assert server.ask_as(1000).get_cred_list(b"1000") == [LASTING]
    assert listed(server.ask_as(2000)) == []


def test_others_go_on_between_two_uids(server: Server) -> None:
    """A request that comes while it reaps is answered before all is reaped."""
    fill(server, *range(1000, 1020))
    server.clock.now = DUE

    async def scenario() -> None:
        task = asyncio.create_task(reaper_of(server).reap())
        await until(lambda: len(server.store.commits) > 20)
        await answer(server.dispatcher, peer(5000), replace(5000))
        assert not task.done()
        await task

    server.runner.run(scenario())
    assert server.runner.run(server.store.uids()) == [5000]


def test_cancelled_in_the_middle(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Cancelled while it removes something, it ends when that is done and told, and begins nothing more."""
    caplog.set_level(logging.INFO)
    fill(server, 1000, 2000)
    server.clock.now = DUE

    async def scenario() -> None:
        server.store.commits.clear()
        server.store.gate = asyncio.Event()
        task = asyncio.create_task(reaper_of(server).reap())
        await until(lambda: server.store.commits)
        task.cancel()
        await settle()
        assert not task.done()
        server.store.gate.set()
        await asyncio.wait([task])
        assert task.cancelled()

    server.runner.run(scenario())
    assert len(server.runner.run(server.store.uids())) == 1
    assert len([record for record in caplog.records if "removed" in record.getMessage()]) == 1
    assert not server.engine.uid_queues.occupied
