"""Eight clients of three users work on three hosts, while hosts, database and connections are disturbed.

All answers together must be linearizable for each UID: nothing acknowledged is lost, nothing happens twice,
no read is stale, and no ccache is a mixture of two writes.

With notifications reads may be a little older; there is a shorter run of them.

PYKCM_SHARED_OPERATIONS: how many calls; PYKCM_DISTURBANCES: how many; PYKCM_NOTIFIED_OPERATIONS and
PYKCM_NOTIFIED_DISTURBANCES: the same with notifications; PYKCM_SEED: the seed that a run prints.
"""

import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from pykcm.store.postgresql.listener import BOUND
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
from .staleness import with_stale_reads

OPERATIONS = int(os.environ.get("PYKCM_SHARED_OPERATIONS", "20000"))
DISTURBANCES = int(os.environ.get("PYKCM_DISTURBANCES", "100"))
NOTIFIED_OPERATIONS = int(os.environ.get("PYKCM_NOTIFIED_OPERATIONS", "3000"))
NOTIFIED_DISTURBANCES = int(os.environ.get("PYKCM_NOTIFIED_DISTURBANCES", "20"))
SEED = int(os.environ.get("PYKCM_SEED", random.SystemRandom().randrange(10**6)))

_HOSTS = 3
_CLIENTS = 8
_UIDS = [20001, 20002, 20003]

# In nanoseconds: a host that is not told of its lost connection serves memory for so long.
_BOUND = int(BOUND * 10**9)

# No read is answered from memory while the database is away: it could be stale.
_OPTIONS = 'stale_reads = 0\nstore_timeout = 2\nlog_level = "warning"\n'


@dataclass
class _Run:
    """The calls that the clients have recorded, and the disturbances."""

    paths: list[Path]
    site: Site
    recorded: list[Recorded]
    seconds: float

    def recorded_of(self, uid: int) -> list[Recorded]:
        return [each for each in self.recorded if _UIDS[each.call.client % len(_UIDS)] == uid]

    def readings(self, uid: int) -> list[list[Recorded]]:
        """All ccaches of a UID, as each host shows them now."""
        with effective_uid(uid):
            return [read_everything(path, -1, uid, number) for number, path in enumerate(self.paths)]


def _run(
    stack: ExitStack, servers: list[Server], options: str, operations: int, disturbances: int, **kinds: bool
) -> _Run:
    """Let the clients work while hosts with these options are disturbed; the hosts run on afterwards.

    `kinds`: of operations, as RandomOperations has them.
    """
    print(f"PYKCM_SEED={SEED}")  # noqa: T201
    begun = time.monotonic()
    folder = stack.enter_context(public_folder())
    paths = [folder / f"host{number}/kcm.sock" for number in range(_HOSTS)]
    # Before there are threads: a process that is forked has none of them, and the locks that they hold.
    over = Signal()
    each = -(-operations // _CLIENTS)
    clients = [
        Client(number, _UIDS[number % len(_UIDS)], paths, each, SEED, folder, over, **kinds)
        for number in range(_CLIENTS)
    ]
    for client in clients:
        stack.callback(client.end)
    proxies = [[Proxy(server.port) for server in servers] for _ in range(_HOSTS)]
    for proxy in [proxy for each in proxies for proxy in each]:
        stack.callback(proxy.close)
    hosts = [
        Host(path.parent, by_tcp(*(proxy.port for proxy in each)), options=_OPTIONS + options)
        for path, each in zip(paths, proxies, strict=True)
    ]
    for host in hosts:
        stack.enter_context(started(stack.enter_context(watched(host))))
    site = Site(hosts, servers, proxies, SEED)
    planned = site.plan(disturbances)
    for number, kind in enumerate(planned, 1):
        # At even distances, whatever the speed is.
        _await_calls(clients, operations * number // (len(planned) + 1))
        site.disturb(kind)
    over.set()
    _await_calls(clients, operations)
    wait_until(lambda: _have_ended(clients))
    assert sum(site.done.values()) == disturbances
    recorded = [each for client in clients for each in client.calls()]
    return _Run(paths, site, recorded, time.monotonic() - begun)


@pytest.mark.usefixtures("several_uids")
@pytest.mark.timeout(300 + 5 * DISTURBANCES + OPERATIONS // 50)
def test_all_answers_are_linearizable_whatever_fails(stack: ExitStack, servers: list[Server]) -> None:
    """Every answer of every host is explained by one order of the calls of each UID."""
    run = _run(stack, servers, 'freshness = "strict"\n', OPERATIONS, DISTURBANCES)
    for uid in _UIDS:
        readings = [each for reading in run.readings(uid) for each in reading]
        check(CollectionState.empty(uid), [each.call for each in [*run.recorded_of(uid), *readings]])
    print(_summary(run))  # noqa: T201


@pytest.mark.usefixtures("several_uids")
@pytest.mark.timeout(600 + 5 * NOTIFIED_DISTURBANCES + NOTIFIED_OPERATIONS // 50)
def test_hosts_with_notifications_lose_nothing_and_agree(stack: ExitStack, servers: list[Server]) -> None:
    """Changes have one order, and each host shows its own; another host's are seen soon, and then by all.

    Nothing acknowledged is lost, nothing happens twice, and no ccache is a mixture. A read may show the state
    of up to `BOUND` before.
    """
    operations, disturbances = NOTIFIED_OPERATIONS, NOTIFIED_DISTURBANCES
    options = 'freshness = "notified"\n'
    run = _run(stack, servers, options, operations, disturbances, always_change=True)
    for uid in _UIDS:
        wait_until(lambda uid=uid: _agree(run.readings(uid)))  # type: ignore[misc]
        last = [each.call for reading in run.readings(uid) for each in reading]
        check(CollectionState.empty(uid), with_stale_reads(run.recorded_of(uid), _BOUND) + last)
    print(_summary(run))  # noqa: T201


def _agree(readings: list[list[Recorded]]) -> bool:
    first, *others = [[each.call.answer for each in reading] for reading in readings]
    return all(answers == first for answers in others)


def _await_calls(clients: list[Client], number: int) -> None:
    """Return when the clients have made so many calls together, or all of theirs."""
    while (done := _done(clients)) < number and not _have_ended(clients):
        wait_until(lambda done=done: _done(clients) > done or _have_ended(clients))  # type: ignore[misc]


def _done(clients: list[Client]) -> int:
    return sum(client.done for client in clients)


def _have_ended(clients: list[Client]) -> bool:
    return all(client.has_ended for client in clients)


def _summary(run: _Run) -> str:
    recorded, site = run.recorded, run.site
    unknown = sum(each.call.answer is None for each in recorded)
    codes = Counter(each.call.answer.code for each in recorded if each.call.answer)
    lines = [
        f"{len(recorded)} calls in {run.seconds:.0f} s, {unknown} of them with an unknown outcome",
        f"codes: {dict(codes)}",
        f"{sum(site.done.values())} disturbances:",
        *(f"  {number} {kind}" for kind, number in sorted(site.done.items())),
    ]
    return "\n".join(lines)
