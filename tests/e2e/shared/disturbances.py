"""Disturbances of hosts, servers and connections while clients work. After each one all work again."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from tests.e2e.waiting import wait_until

from .hosts import Host
from .proxy import Cut, Proxy
from .servers import Server


class Site:
    """Hosts that reach a primary and its synchronous standby, each through proxies of its own.

    `proxies[host][server]`: in the order of `hosts` and of `servers`.
    """

    def __init__(
        self, hosts: Sequence[Host], servers: Sequence[Server], proxies: Sequence[Sequence[Proxy]], seed: int
    ) -> None:
        self.hosts = hosts
        self.servers = servers
        self.proxies = proxies
        self.primary = 0
        self.done: Counter[str] = Counter()
        self._rng = random.Random(f"{seed} disturbances")
        self._kinds: dict[str, Callable[[], None]] = {
            "host killed": self.kill_host,
            "host stopped": self.stop_host,
            "all hosts killed": self.kill_all_hosts,
            "connections cut": self.cut_connections,
            "database restarted": self.restart_database,
            "database crashed": self.crash_database,
            "database killed": self.kill_database,
            "standby promoted": self.promote_standby,
            **{f"commit cut {cut.value}": partial(self.cut_commit, cut) for cut in Cut},
        }

    def plan(self, number: int) -> list[str]:
        """Names of disturbances in a random order, of each kind its share."""
        shares = [kind for kind, share in _SHARES.items() for _ in range(share)]
        planned = [shares[each * _STEP % len(shares)] for each in range(number)]
        self._rng.shuffle(planned)
        return planned

    def disturb(self, kind: str) -> None:
        self._kinds[kind]()
        self.done[kind] += 1

    # Hosts

    def kill_host(self) -> None:
        host = self._rng.choice(self.hosts)
        host.kill()
        host.start()

    def stop_host(self) -> None:
        self._rng.choice(self.hosts).restart()

    def kill_all_hosts(self) -> None:
        for host in self.hosts:
            host.kill()
        for host in self.hosts:
            host.start()

    # Connections

    def cut_connections(self) -> None:
        self._rng.choice(self.proxies)[self.primary].cut_all()

    def cut_commit(self, cut: Cut) -> None:
        """Cut the next commit of a host; returns when that has happened."""
        proxy = self._rng.choice(self.proxies)[self.primary]
        cuts = proxy.cuts
        proxy.cut_next(cut)
        wait_until(lambda: proxy.cuts > cuts)

    # The database

    def restart_database(self) -> None:
        self.servers[self.primary].stop()
        self._start_database()

    def crash_database(self) -> None:
        self.servers[self.primary].stop("immediate")
        self._start_database()

    def kill_database(self) -> None:
        self.servers[self.primary].kill()
        self._start_database()

    def _start_database(self) -> None:
        self.servers[self.primary].start()
        self.servers[self.primary].await_standby()

    def promote_standby(self) -> None:
        """The primary is lost for ever. Its standby takes its place, and gets a standby of its own."""
        lost, promoted = self.servers[self.primary], self.servers[1 - self.primary]
        lost.kill()
        promoted.promote()
        self.primary = 1 - self.primary
        lost.copy_from(promoted)
        lost.start()
        promoted.await_standby()


# It has no factor in common with a hundred: also a few disturbances are of all kinds.
_STEP = 37

# How many of each kind in a hundred.
_SHARES = {
    "host killed": 22,
    "host stopped": 5,
    "all hosts killed": 2,
    "connections cut": 8,
    "database restarted": 5,
    "database crashed": 5,
    "database killed": 6,
    "standby promoted": 6,
    "commit cut before the server has any of it": 8,
    "commit cut after half of it": 8,
    "commit cut after it was sent": 10,
    "commit cut before its answer": 12,
    "commit cut without its answer, and kept open": 3,
}
