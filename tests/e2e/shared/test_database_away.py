"""A database that is away for a while: reads from memory, writes that wait and then fail, nobody blocked."""

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from tests.builders import ALICE, BOB, credential_bytes
from tests.e2e.conftest import OTHER, USER, public_folder, started, watched
from tests.e2e.crashes import code_of
from tests.e2e.daemon import effective_uid
from tests.e2e.waiting import wait_until

from .hosts import Host, by_tcp
from .proxy import Cut, Proxy
from .servers import DATABASE, Server

_NAME = b"%d" % USER
_AWAY = "the database is away"
_BACK = "the database is back"

StartHost = Callable[..., Host]

pytestmark = pytest.mark.usefixtures("several_uids")


@pytest.fixture
def start_host(stack: ExitStack, server: Server) -> StartHost:
    """Starts a host with these options."""
    folder = stack.enter_context(public_folder())

    def start(options: str, port: int | None = None) -> Host:
        host = Host(
            folder / f"host{len(list(folder.iterdir()))}", by_tcp(port or server.port), options=options
        )
        return stack.enter_context(started(stack.enter_context(watched(host))))

    return start


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def connect(stack: ExitStack, path: Path, uid: int = USER) -> KcmClient:
    with effective_uid(uid):
        return stack.enter_context(KcmClient(path))


def begin(pool: ThreadPoolExecutor, change: Callable[[], object]) -> "Future[tuple[int, float]]":
    """Make a change in a thread: its code, and how many seconds it took."""

    def run() -> tuple[int, float]:
        begun = time.monotonic()
        return code_of(change), time.monotonic() - begun

    return pool.submit(run)


def test_reads_go_on_from_memory_and_then_fail(
    stack: ExitStack, server: Server, start_host: StartHost
) -> None:
    """For `stale_reads` after the database was last seen a collection in memory is shown, then ETIMEDOUT."""
    host = start_host("stale_reads = 10\nstore_timeout = 4\n")
    kcm = connect(stack, host.socket_path)
    # The database is seen after this moment.
    begun = time.monotonic()
    kcm.replace(_NAME, 0, ALICE, [credential_bytes()])
    server.stop("immediate")
    assert kcm.get_cred_list(_NAME) == [credential_bytes()]
    assert kcm.get_principal(_NAME) == ALICE
    wait_until(lambda: code_of(lambda: kcm.get_principal(_NAME)))
    assert time.monotonic() - begun >= 10
    assert code_of(kcm.get_cache_uuid_list) == errno.ETIMEDOUT
    server.start()
    wait_until(lambda: _BACK in host.log)
    assert kcm.get_cred_list(_NAME) == [credential_bytes()]


def test_collection_that_is_not_in_memory_cannot_be_read(
    stack: ExitStack, server: Server, start_host: StartHost
) -> None:
    """Of a user whose ccaches the host has not read nothing can be shown: ETIMEDOUT, not an empty list."""
    host = start_host("stale_reads = 600\nstore_timeout = 4\n")
    connect(stack, host.socket_path).initialize(_NAME, ALICE)
    host.restart()
    kcm = connect(stack, host.socket_path)
    server.stop("immediate")
    assert code_of(kcm.get_cache_uuid_list) == errno.ETIMEDOUT
    assert code_of(kcm.get_default_cache) == errno.ETIMEDOUT


def test_write_fails_after_store_timeout(
    stack: ExitStack, server: Server, start_host: StartHost, pool: ThreadPoolExecutor
) -> None:
    """A write waits for the database for `store_timeout` and then answers ETIMEDOUT; nothing has changed."""
    host = start_host("stale_reads = 600\nstore_timeout = 2\n")
    kcm = connect(stack, host.socket_path)
    kcm.initialize(_NAME, ALICE)
    server.stop("immediate")
    code, seconds = begin(pool, lambda: kcm.initialize(_NAME, BOB)).result()
    assert code == errno.ETIMEDOUT
    assert 1.5 < seconds < 10
    # It does not take the user's collection from memory with it.
    assert kcm.get_principal(_NAME) == ALICE
    server.start()
    wait_until(lambda: _BACK in host.log)
    assert kcm.get_principal(_NAME) == ALICE
    kcm.initialize(_NAME, BOB)
    assert kcm.get_principal(_NAME) == BOB


def test_write_during_a_restart_of_the_database_succeeds(
    stack: ExitStack, server: Server, start_host: StartHost, pool: ThreadPoolExecutor
) -> None:
    """The first write that notices the absence waits for the end of it, as the later ones do."""
    host = start_host("stale_reads = 600\nstore_timeout = 60\n")
    first, second = (connect(stack, host.socket_path, uid) for uid in (USER, OTHER))
    first.initialize(_NAME, ALICE)
    server.stop()
    noticing = begin(pool, lambda: first.initialize(_NAME, BOB))
    wait_until(lambda: _AWAY in host.log)
    waiting = begin(pool, lambda: second.initialize(b"%d" % OTHER, BOB))
    server.start()
    assert noticing.result()[0] == waiting.result()[0] == 0
    assert first.get_principal(_NAME) == BOB


def test_nobody_else_waits_while_a_commit_gets_no_answer(
    stack: ExitStack, server: Server, start_host: StartHost, pool: ThreadPoolExecutor
) -> None:
    """While a transaction holds one user's rows, other users write and the control socket answers."""
    host = start_host("store_timeout = 60\n")
    kcm, other = (connect(stack, host.socket_path, uid) for uid in (USER, OTHER))
    kcm.initialize(_NAME, ALICE)
    with server.transaction(f"SELECT * FROM pykcm.collections WHERE uid = {USER} FOR UPDATE"):
        blocked = begin(pool, lambda: kcm.initialize(_NAME, BOB))
        for number in range(20):
            other.initialize(b"%d:%d" % (OTHER, number), BOB)
        assert len(other.get_cache_uuid_list()) == 20
        assert host.ctl.run("stats").status == 0
        assert not blocked.done()
    assert blocked.result()[0] == 0
    assert kcm.get_principal(_NAME) == BOB


def test_control_socket_answers_while_the_database_is_away(
    stack: ExitStack, server: Server, start_host: StartHost, pool: ThreadPoolExecutor
) -> None:
    """`pykcmctl stats` needs no database, even while requests wait for it."""
    host = start_host("stale_reads = 0\nstore_timeout = 60\n")
    kcm = connect(stack, host.socket_path)
    server.stop("immediate")
    waiting = begin(pool, lambda: kcm.initialize(_NAME, ALICE))
    wait_until(lambda: _AWAY in host.log)
    assert host.ctl.run("stats").status == 0
    kcm_of_other = connect(stack, host.socket_path, OTHER)
    kcm_of_other.noop()
    server.start()
    assert waiting.result()[0] == 0


def test_host_starts_while_the_database_is_away(
    stack: ExitStack, server: Server, start_host: StartHost
) -> None:
    """It says so, refuses requests until the database is back, and then serves by itself."""
    server.stop()
    host = start_host("stale_reads = 600\nstore_timeout = 4\n")
    assert "the database cannot be reached" in host.log
    kcm = connect(stack, host.socket_path)
    assert code_of(kcm.get_cache_uuid_list) == errno.ETIMEDOUT
    server.start()
    wait_until(lambda: code_of(kcm.get_cache_uuid_list) == 0)
    kcm.initialize(_NAME, ALICE)


def test_commit_whose_answer_was_lost_is_made_once(
    stack: ExitStack, server: Server, start_host: StartHost
) -> None:
    """A move whose answer was lost is found out before it is answered: done, and not made a second time."""
    proxy = Proxy(server.port)
    stack.callback(proxy.close)
    host = start_host("store_timeout = 20\n", proxy.port)
    kcm = connect(stack, host.socket_path)
    for cut in (Cut.BEFORE, Cut.MIDDLE, Cut.SENT, Cut.ANSWER):
        kcm.initialize(_NAME, ALICE)
        proxy.cut_next(cut)
        cuts = proxy.cuts
        # Made twice, it would find no ccache of the old name.
        kcm.move_cache(_NAME, _NAME + b":moved")
        assert proxy.cuts == cuts + 1
        assert len(kcm.get_cache_uuid_list()) == 1
        assert kcm.get_principal(_NAME + b":moved") == ALICE
        kcm.destroy(_NAME + b":moved")


def test_change_of_unknown_outcome_is_not_hidden_by_memory(
    stack: ExitStack, server: Server, start_host: StartHost, pool: ThreadPoolExecutor
) -> None:
    """While the database is away, the user's reads fail instead of showing the state before; others go on."""
    proxy = Proxy(server.port)
    stack.callback(proxy.close)
    host = start_host("stale_reads = 600\nstore_timeout = 4\n", proxy.port)
    kcm, other = (connect(stack, host.socket_path, uid) for uid in (USER, OTHER))
    kcm.initialize(_NAME, ALICE)
    other.initialize(b"%d" % OTHER, ALICE)
    proxy.cut_next(Cut.SILENCE)
    change = begin(pool, lambda: kcm.initialize(_NAME, BOB))
    wait_until(
        lambda: server.query(f"SELECT version FROM pykcm.collections WHERE uid = {USER}", DATABASE) == [(2,)]
    )
    proxy.refuse()
    assert change.result()[0] == errno.ETIMEDOUT
    for _ in range(2):
        assert code_of(lambda: kcm.get_principal(_NAME)) == errno.ETIMEDOUT
        assert other.get_principal(b"%d" % OTHER) == ALICE
    proxy.accept()
    wait_until(lambda: code_of(lambda: kcm.get_principal(_NAME)) == 0)
    assert kcm.get_principal(_NAME) == BOB
