"""A standby takes the primary's place: nothing that was acknowledged is lost, whatever else fails before."""

import asyncio
from contextlib import ExitStack

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.store.interface import Committed, Entry, Unknown
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from pykcm.store.tree import Put, ccache_name, ccaches_container
from tests.builders import ALICE, credential_bytes
from tests.e2e.conftest import USER, public_folder, started, watched
from tests.e2e.daemon import LIMIT, effective_uid
from tests.e2e.waiting import wait_until

from .hosts import KEY, Host, by_tcp
from .servers import Server

_NAME = b"%d" % USER


def test_acknowledged_change_is_on_the_promoted_standby(stack: ExitStack, servers: list[Server]) -> None:
    """A ccache is on the standby before its store is acknowledged, and the host finds it there by itself."""
    primary, standby = servers
    host = _host(stack, servers)
    with effective_uid(USER):
        kcm = stack.enter_context(KcmClient(host.socket_path))
    kcm.replace(_NAME, 0, ALICE, [credential_bytes()])
    primary.kill()
    standby.commit_without_standby()
    standby.promote()
    _await_database(kcm)
    assert kcm.get_cred_list(_NAME) == [credential_bytes()]
    kcm.replace(_NAME, 0, ALICE, [])
    assert kcm.get_cred_list(_NAME) == []


async def test_commit_that_only_the_primary_has_is_not_taken_as_made(servers: list[Server]) -> None:
    """The outcome of a commit is known when the standby has it, also after a crash of the primary.

    After its start a primary shows all that is on its disk, also what the standby never got.
    """
    primary, standby = servers
    store = PostgreSQLStore(Database(by_tcp(primary.port), LIMIT), Sealer([KEY]))
    entry = Entry([Put(ccaches_container(USER), ccache_name(bytes(16), _NAME), b"{}")], {USER: 0}, 0, b"id")
    standby.kill()
    committed = asyncio.create_task(store.commit([entry]))
    await asyncio.to_thread(wait_until, lambda: _waits_for_standby(primary))
    primary.kill()
    [outcome] = await committed
    assert type(outcome) is Unknown
    primary.start()
    found_out = asyncio.create_task(store.outcome(entry))
    await asyncio.to_thread(wait_until, lambda: found_out.done() or _waits_for_standby(primary))
    assert not found_out.done()
    standby.start()
    assert await found_out == Committed({USER: 1})
    store.close()


def _host(stack: ExitStack, servers: list[Server]) -> Host:
    conninfo = by_tcp(*(server.port for server in servers))
    folder = stack.enter_context(public_folder())
    host = Host(folder / "host", conninfo, options="stale_reads = 0\nstore_timeout = 20\n")
    return stack.enter_context(started(stack.enter_context(watched(host))))


def _waits_for_standby(server: Server) -> bool:
    return bool(server.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))


def _await_database(kcm: KcmClient) -> None:
    """Return when the host can use its database again."""

    def is_back() -> bool:
        try:
            kcm.get_cache_uuid_list()
        except KcmError:
            return False
        return True

    wait_until(is_back)
