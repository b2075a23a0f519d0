"""One host renews the TGTs of all that share a store."""

import asyncio
from collections.abc import Iterable

from pykcm.engine.renewal_sharing import LEASE, RenewalLease
from pykcm.store.interface import StoreError
from tests.builders import Clock
from tests.server.waiting import settle


class Sharing:
    """A store's lease and commits; `now` is the database's clock, which is also that of all hosts."""

    def __init__(self) -> None:
        self.now = Clock(0)
        self.holder: bytes | None = None
        self.until = 0.0
        self.commits: dict[bytes, tuple[float, list[int]]] = {}
        self.failure: StoreError | None = None

    async def may_renew(self, holder: bytes, seconds: float) -> bool:
        self._fail()
        if self.until > self.now() and self.holder != holder:
            return False
        self.holder, self.until = holder, self.now() + seconds
        return True

    async def end_renewals(self, holder: bytes) -> None:
        self._fail()
        if self.holder == holder:
            self.until = 0

    async def commits_of_tgts(self, seconds: float) -> dict[bytes, list[int]]:
        self._fail()
        return {id_: uids for id_, (at, uids) in self.commits.items() if at > self.now() - seconds}

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class Host:
    """A host that wants the lease within `with`; its clock may be stopped, as if the host were dead."""

    def __init__(self, sharing: Sharing) -> None:
        self.sharing = sharing
        self.events: list[object] = []
        self.step = asyncio.Event()
        self.lease = RenewalLease(
            sharing,  # type: ignore[arg-type]
            self._begin,
            self._changed,
            lambda: self.events.append("end"),
            self._sleep,
            sharing.now,
        )

    async def _begin(self) -> None:
        self.events.append("begin")

    def _changed(self, uids: Iterable[int]) -> None:
        self.events.append(sorted(uids))

    async def _sleep(self, _: float) -> None:
        self.step.clear()
        await self.step.wait()

    def start(self) -> None:
        self.task = asyncio.create_task(self.lease.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def pass_time(sharing: Sharing, seconds: int, *hosts: Host) -> None:
    """Let hosts that are alive work, second by second."""
    for _ in range(seconds):
        sharing.now.now += 1
        for host in hosts:
            host.step.set()
        await settle()


async def test_one_host_has_the_lease() -> None:
    """Of several hosts one renews, as long as it lives; when it stops, another one does within seconds."""
    sharing = Sharing()
    one, two = Host(sharing), Host(sharing)
    for host in (one, two):
        host.start()
        await settle()
    await pass_time(sharing, 300, one, two)
    assert (one.events, two.events) == (["begin"], [])
    await one.stop()
    assert one.events == ["begin", "end"]
    await pass_time(sharing, 6, two)
    assert two.events == ["begin"]
    await two.stop()


async def test_lease_of_a_dead_host_is_taken_within_a_minute() -> None:
    """A host that dies without a word is replaced, and finds out if it lives after all."""
    sharing = Sharing()
    one, two = Host(sharing), Host(sharing)
    one.start()
    await settle()
    two.start()
    await pass_time(sharing, 20, one, two)
    await pass_time(sharing, 40, two)
    assert two.events == ["begin"]
    await pass_time(sharing, 5, one, two)
    assert (one.events, two.events) == (["begin", "end"], ["begin"])
    await one.stop()
    await two.stop()


async def test_each_commit_of_other_hosts_is_found_once() -> None:
    """Commits since the lease began are reported once, also those that appear late."""
    sharing = Sharing()
    sharing.commits[b"before"] = -5, [1]
    host = Host(sharing)
    host.start()
    await settle()
    sharing.commits[b"a"] = 0, [2, 3]
    await pass_time(sharing, 3, host)
    sharing.commits[b"late"] = 1, [4]
    await pass_time(sharing, 60, host)
    assert host.events == ["begin", [2, 3], [4]]
    await host.stop()


async def test_host_without_the_store_loses_its_lease() -> None:
    """While the store is away, the lease ends; when it is back, the host asks for it again."""
    sharing = Sharing()
    host = Host(sharing)
    host.start()
    await settle()
    sharing.failure = StoreError("away")
    await pass_time(sharing, int(LEASE) - 1, host)
    assert host.events == ["begin"]
    await pass_time(sharing, 2, host)
    assert host.events == ["begin", "end"]
    sharing.failure = None
    await pass_time(sharing, 2, host)
    assert host.events == ["begin", "end", "begin"]
    await host.stop()


async def test_commits_while_the_store_was_away_are_found() -> None:
    """After a short absence of the store, all commits in between are reported."""
    sharing = Sharing()
    host = Host(sharing)
    host.start()
    await settle()
    sharing.failure = StoreError("away")
    sharing.commits[b"a"] = 1, [7]
    await pass_time(sharing, 28, host)
    sharing.failure = None
    await pass_time(sharing, 1, host)
    assert host.events == ["begin", [7]]
    await host.stop()
