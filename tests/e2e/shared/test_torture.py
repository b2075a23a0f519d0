"""Eight clients of three users work on three hosts, while hosts, database and connections are disturbed.

All answers together must be linearizable for each UID: nothing acknowledged is lost, nothing happens twice,
no read is stale, and no ccache is a mixture of two writes.

PYKCM_SHARED_OPERATIONS: how many calls; PYKCM_DISTURBANCES: how many; PYKCM_SEED: the seed that a run prints.
"""

import os
import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.e2e.conftest import public_folder, started, watched
from tests.e2e.daemon import effective_uid
from tests.e2e.waiting import wait_until

from .collection_operations import CollectionState
from .disturbances import Site
from .hosts import Host, by_tcp
from .linearizability import check
from .proxy import Proxy
from .recording import Client, Recorded, Signal, read_everything
from .servers import Server

OPERATIONS = int(os.environ.get("PYKCM_SHARED_OPERATIONS", "20000"))
DISTURBANCES = int(os.environ.get("PYKCM_DISTURBANCES", "100"))
SEED = int(os.environ.get("PYKCM_SEED", random.SystemRandom().randrange(10**6)))

_HOSTS = 3
_CLIENTS = 8
_UIDS = [20001, 20002, 20003]

# No read is answered from memory while the database is away: it could be stale.
_OPTIONS = 'freshness = "strict"\nstale_reads = 0\nstore_timeout = 2\nlog_level = "warning"\n'


@pytest.mark.usefixtures("several_uids")
@pytest.mark.timeout(300 + 5 * DISTURBANCES + OPERATIONS // 50)
def test_all_answers_are_linearizable_whatever_fails(stack: ExitStack, servers: list[Server]) -> None:
    """Every answer of every host is explained by one order of the calls of each UID."""
    print(f"PYKCM_SEED={SEED}")  # noqa: T201
    begun = time.monotonic()
    folder = stack.enter_context(public_folder())
    paths = [folder / f"host{number}/kcm.sock" for number in range(_HOSTS)]
    # Before there are threads: a process that is forked has none of them, and the locks that they hold.
    over = Signal()
    clients = [
        Client(number, _UIDS[number % len(_UIDS)], paths, -(-OPERATIONS // _CLIENTS), SEED, folder, over)
        for number in range(_CLIENTS)
    ]
    for client in clients:
        stack.callback(client.end)
    proxies = [[Proxy(server.port) for server in servers] for _ in range(_HOSTS)]
    for proxy in [proxy for each in proxies for proxy in each]:
        stack.callback(proxy.close)
    hosts = [
        Host(path.parent, by_tcp(*(proxy.port for proxy in each)), options=_OPTIONS)
        for path, each in zip(paths, proxies, strict=True)
    ]
    for host in hosts:
        stack.enter_context(started(stack.enter_context(watched(host))))
    site = Site(hosts, servers, proxies, SEED)
    planned = site.plan(DISTURBANCES)
    for number, kind in enumerate(planned, 1):
        # At even distances, whatever the speed is.
        _await_calls(clients, OPERATIONS * number // (len(planned) + 1))
        site.disturb(kind)
    over.set()
    _await_calls(clients, OPERATIONS)
    wait_until(lambda: _have_ended(clients))
    recorded = [each for client in clients for each in client.calls()]
    for uid in _UIDS:
        with effective_uid(uid):
            readings = [read_everything(path, -1, uid, number) for number, path in enumerate(paths)]
        calls = [each.call for each in recorded if _UIDS[each.call.client % len(_UIDS)] == uid] + [
            each.call for reading in readings for each in reading
        ]
        check(CollectionState.empty(uid), calls)
    print(_summary(site, recorded, time.monotonic() - begun))  # noqa: T201
    assert sum(site.done.values()) == DISTURBANCES


def _await_calls(clients: list[Client], number: int) -> None:
    """Return when the clients have made so many calls together, or all of theirs."""
    while (done := _done(clients)) < number and not _have_ended(clients):
        wait_until(lambda done=done: _done(clients) > done or _have_ended(clients))  # type: ignore[misc]


def _done(clients: list[Client]) -> int:
    return sum(client.done for client in clients)


def _have_ended(clients: list[Client]) -> bool:
    return all(client.has_ended for client in clients)


def _summary(site: Site, recorded: list[Recorded], seconds: float) -> str:
    unknown = sum(each.call.answer is None for each in recorded)
    codes = Counter(each.call.answer.code for each in recorded if each.call.answer)
    lines = [
        f"{len(recorded)} calls in {seconds:.0f} s, {unknown} of them with an unknown outcome",
        f"codes: {dict(codes)}",
        f"{sum(site.done.values())} disturbances:",
        *(f"  {number} {kind}" for kind, number in sorted(site.done.items())),
    ]
    return "\n".join(lines)
