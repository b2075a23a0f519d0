"""Options that hosts with a shared store have in common: the limit of all ccaches, how fresh reads are."""

import errno
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest

from pykcm.client import KcmClient
from tests.builders import ALICE, BOB, REALM
from tests.e2e.conftest import OTHER, USER, public_folder, started, watched
from tests.e2e.crashes import code_of
from tests.e2e.daemon import effective_uid
from tests.e2e.waiting import wait_until

from .hosts import Host, by_socket
from .servers import Server

_NAME = b"%d" % USER

StartHosts = Callable[[int, str], list[Host]]

pytestmark = pytest.mark.usefixtures("several_uids")


@pytest.fixture
def start_hosts(stack: ExitStack, server: Server) -> StartHosts:
    """Starts a number of hosts with these options."""
    folder = stack.enter_context(public_folder())

    def start(number: int, options: str) -> list[Host]:
        hosts = [Host(folder / f"host{n}", by_socket(server), options=options) for n in range(number)]
        return [stack.enter_context(started(stack.enter_context(watched(host)))) for host in hosts]

    return start


def connect(stack: ExitStack, host: Host, uid: int = USER) -> KcmClient:
    with effective_uid(uid):
        return stack.enter_context(KcmClient(host.socket_path))


def test_limit_of_all_ccaches_counts_those_of_every_host(stack: ExitStack, start_hosts: StartHosts) -> None:
    """With max_ccaches = 2 a third one is refused on each host, until one of them is destroyed anywhere."""
    hosts = start_hosts(2, "max_ccaches = 2\n")
    one, two = (connect(stack, host) for host in hosts)
    other = connect(stack, hosts[1], OTHER)
    one.initialize(_NAME + b":first", ALICE)
    two.initialize(_NAME + b":second", ALICE)
    third = partial(other.initialize, b"%d" % OTHER, BOB)
    assert code_of(third) == errno.EDQUOT
    assert code_of(lambda: one.initialize(_NAME + b":third", ALICE)) == errno.EDQUOT
    one.destroy(_NAME + b":second")
    assert code_of(third) == 0
    assert code_of(lambda: one.initialize(_NAME + b":third", ALICE)) == errno.EDQUOT


def test_list_show_and_destroy_work_on_any_host(stack: ExitStack, start_hosts: StartHosts) -> None:
    """The commands of one host show and change the ccaches that another host stored."""
    one, two = start_hosts(2, "")
    kcm = connect(stack, one)
    kcm.initialize(_NAME, ALICE)
    assert "kept in the database that hosts share" in two.log
    assert [(each["uid"], each["name"]) for each in two.ctl.json("list")] == [(USER, f"KCM:{USER}")]
    assert two.ctl.json("show", f"KCM:{USER}")["principal"] == f"alice@{REALM.decode()}"
    two.ctl.ok("destroy", "--yes", f"KCM:{USER}")
    assert kcm.get_cache_uuid_list() == []


def test_notified_reads_need_no_look_up(stack: ExitStack, server: Server, start_hosts: StartHosts) -> None:
    """They see other hosts' changes, also after the connections to the database have been cut."""
    one, two = start_hosts(2, 'freshness = "notified"\n')
    here, there = connect(stack, one), connect(stack, two)

    def look_ups() -> int:
        return int(two.ctl.json("stats")["store"]["look_ups"])

    def reads_without_look_up() -> bool:
        before = look_ups()
        there.get_cache_uuid_list()
        return look_ups() == before

    here.initialize(_NAME + b":0", ALICE)
    wait_until(lambda: len(there.get_cache_uuid_list()) == 1)
    wait_until(reads_without_look_up)
    here.initialize(_NAME + b":1", ALICE)
    wait_until(lambda: len(there.get_cache_uuid_list()) == 2)
    wait_until(reads_without_look_up)

    server.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pykcm'")
    here.initialize(_NAME + b":2", ALICE)
    wait_until(lambda: len(there.get_cache_uuid_list()) == 3)
    wait_until(reads_without_look_up)
