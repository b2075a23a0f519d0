"""Renewals of a shared store on a real server: one host renews the TGTs that any host has stored."""

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from pykcm.engine import renewal_sharing
from pykcm.engine.engine import Collections
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.builders import HTTP, ticket
from tests.engine.renewing import NOW, Client, Host, tgt
from tests.store.postgresql.conftest import OpenStore

NEW = tgt(NOW + 50, NOW + 150, ticket=b"renewed")


async def wait_for(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0.01)


async def test_lease_is_kept_by_its_holder(open_store: OpenStore, conninfo: str) -> None:
    """The holder may keep the lease; another host gets it when it is over, or was given up."""
    one, two = open_store(), open_store()
    assert await one.may_renew(b"1", 30.0)
    assert not await two.may_renew(b"2", 30.0)
    assert await one.may_renew(b"1", 30.0)
    with psycopg.connect(conninfo) as connection:
        connection.execute("UPDATE pykcm.leases SET until = until - interval '31 seconds'")
    assert await two.may_renew(b"2", 30.0)
    await one.end_renewals(b"1")
    assert not await one.may_renew(b"1", 30.0)
    await two.end_renewals(b"2")
    assert await one.may_renew(b"1", 30.0)


async def test_only_commits_of_tgts_are_noted(shared: PostgreSQLStore) -> None:
    """A commit that adds or removes a TGT is noted with its UIDs, a service ticket's is not."""
    host = Host(store=shared)

    async def noted() -> list[list[int]]:
        return sorted((await shared.commits_of_tgts(60.0)).values())

    assert await noted() == []
    await host.fill(b"1000", tgt())
    assert await noted() == [[1000]]

    async def store_service_ticket(uid: int) -> None:
        def store(collections: Collections) -> None:
            ccache = collections[uid].get(b"%d" % uid)
            assert ccache is not None
            collections[uid].store(ccache, ticket(HTTP))

        await host.engine.change((uid,), store)

    await store_service_ticket(1000)
    assert await noted() == [[1000]]
    # Several UIDs are committed together.
    await asyncio.gather(*(host.fill(b"%d" % uid, tgt(), uid=uid) for uid in (2000, 2001, 2002)))
    await asyncio.gather(
        *(store_service_ticket(uid) for uid in (2000, 2001)), host.fill(b"2002", tgt(), uid=2002)
    )
    assert await noted() == [[1000], [2000], [2001], [2002], [2002]]


async def test_one_host_renews_what_others_store(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host with the lease gets TGTs that another host has stored, and that host sees the new ones."""
    monkeypatch.setattr(renewal_sharing, "_INTERVAL", 0.02)
    monkeypatch.setattr(renewal_sharing, "_ASKED_EVERY", 0.05)
    one, two = Host(store=open_store()), Host(store=open_store())
    for host in (one, two):
        host.clock.now = NOW + 60
    await two.fill(b"1000", tgt(), ticket(HTTP))
    async with Client(one.renewals) as first:
        await wait_for(lambda: first.offers)
        async with Client(two.renewals) as second:
            await two.fill(b"2000", tgt(), uid=2000)
            await wait_for(lambda: len(first.offers) == 2)
            assert second.offers == []
            assert (await one.renewals.hand_back(first.offers[0].id, NEW.blob)).result == "renewed"
            assert await two.credentials(b"1000") == [NEW, ticket(HTTP)]
            # A kinit on another host wins.
            await two.fill(b"2000", tgt(ticket=b"other", end=NOW + 5000, renew_until=NOW + 9000), uid=2000)
            assert (await one.renewals.hand_back(first.offers[1].id, NEW.blob)).result == "changed"
            await one.fill(b"1000:b", tgt())
            await wait_for(lambda: len(first.offers) == 3)
            first._task.cancel()
            first._at_end.close()
            await wait_for(lambda: second.offers)
            assert second.names() == [b"1000:b"]
            assert one.renewals.next_due is None
            assert two.renewals.is_needed
    for host in (one, two):
        await host.renewals.finish()
