"""The work that one host does for all, housekeeping, and the numbers of a shared store."""

import asyncio
import time
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from pykcm.cli import statistics
from pykcm.config import Config
from pykcm.control.openmetrics import openmetrics
from pykcm.control.statistics import gather
from pykcm.engine.reaper import Reaper
from pykcm.store.interface import Committed, StoreError
from pykcm.store.postgresql import store as store_module
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.control.controlling import Controlling
from tests.engine.reaping import DUE, RETENTION, fill
from tests.server.asking import Server
from tests.server.waiting import until
from tests.store.postgresql.conftest import KEY, OpenStore
from tests.store.postgresql.test_store import commit, entry, put_ccache


async def test_one_host_reaps_within_an_interval(open_store: OpenStore, conninfo: str) -> None:
    """Of many hosts that ask at once one may reap; when the interval is over, one more may."""
    hosts = [open_store() for _ in range(8)]
    assert sum(await asyncio.gather(*(host.may_reap(600.0) for host in hosts))) == 1
    assert not any([await host.may_reap(600.0) for host in hosts])
    with psycopg.connect(conninfo) as connection:
        connection.execute("UPDATE pykcm.leases SET until = until - interval '601 seconds'")
    assert sum([await host.may_reap(600.0) for host in hosts]) == 1


def test_hosts_share_the_reaping(conninfo: str) -> None:
    """Each ccache is removed once, by the host that has the lease; the others look at no collection."""
    with asyncio.Runner() as runner:
        stores = [PostgreSQLStore(Database(conninfo, 20.0), Sealer([KEY])) for _ in range(4)]
        writer, *hosts = (Server(runner, store) for store in stores)
        fill(writer, *range(1000, 1005))

        async def reap_at_once() -> None:
            slept = 0

            async def sleep(_: float) -> None:
                nonlocal slept
                slept += 1
                if slept > len(hosts):
                    await asyncio.Event().wait()

            reapers = [Reaper(host.engine, RETENTION, lambda: DUE) for host in hosts]
            tasks = [asyncio.create_task(reaper.run(600.0, sleep)) for reaper in reapers]
            await until(lambda: slept == 2 * len(hosts))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        runner.run(reap_at_once())
        assert runner.run(stores[0].count_ccaches()) == 0
        assert sorted(len(host.store.loads) for host in hosts) == [0, 0, 5]
        for store in stores:
            store.close()


async def test_reap_command_needs_no_lease(open_store: OpenStore) -> None:
    """An administrator's reap runs now, also when another host has just reaped."""
    one, two = open_store(), open_store()
    assert await one.may_reap(600.0)
    await commit(one, 1000, put_ccache(1000, 1, b"{}", 5))
    assert len(await two.expired(10, None, 64)) == 1


async def test_ids_of_old_commits_are_removed(
    shared: PostgreSQLStore, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits remove ids that are older than some hours, a bounded number at a time, and no younger ones."""
    monkeypatch.setattr(store_module, "_COMMITS_KEPT", 4)
    monkeypatch.setattr(store_module, "_COMMITS_REMOVED", 10)
    with psycopg.connect(conninfo, autocommit=True) as connection:

        def old() -> int:
            [(number,)] = connection.execute(
                "SELECT count(*) FROM pykcm.commits WHERE at < now() - interval '6 hours'"
            ).fetchall()
            return int(number)

        connection.execute(
            "INSERT INTO pykcm.commits SELECT int8send(n), true, now() - interval '7 hours' "
            "FROM generate_series(1, 25) AS n"
        )
        version = 0
        for left in (15, 5, 0):
            connection.execute("UPDATE pykcm.leases SET until = '-infinity'")
            for _ in range(4):
                await commit(shared, 1000, put_ccache(1000, 1))
                version += 1
            await until(lambda left=left: old() == left)  # type: ignore[misc]
        [(number,)] = connection.execute("SELECT count(*) FROM pykcm.commits").fetchall()
        assert number == version


async def test_versions_come_in_pages(shared: PostgreSQLStore) -> None:
    """All UIDs come with their newest versions, in order, also one without ccaches."""
    for uid in (3, 1, 2):
        for _ in range(uid):
            await commit(shared, uid, put_ccache(uid, 1))
    assert await shared.versions_after(-1, 2) == [(1, 1), (2, 2)]
    assert await shared.versions_after(2, 2) == [(3, 3)]
    assert await shared.versions_after(3, 2) == []


async def test_numbers_of_a_working_store(open_store: OpenStore) -> None:
    """Connections, calls, look-ups, conflicts and outcomes that were found out are counted."""
    one, two = open_store(), open_store()
    first = entry({1000: 0}, put_ccache(1000, 1))
    assert await one.commit([first]) == [Committed({1000: 1})]
    await two.commit([entry({1000: 0}, put_ccache(1000, 2))])
    await two.versions([1000])
    await two.outcome(first)
    await two.outcome(entry({1000: 1}, put_ccache(1000, 2)))
    numbers = two.statistics()
    assert (numbers["conflicts"], numbers["look_ups"]) == (1, 1)
    assert numbers["found_out"] == {"made": 1, "not_made": 1}
    assert (numbers["away_since"], numbers["reason"], numbers["absences"]) == (None, "", 0)
    assert numbers["connections_open"] == numbers["connections_made"] == 1
    assert numbers["calls"] == 4
    assert numbers["key"] == KEY.id.hex()
    assert abs(time.time() - numbers["last_seen"]) < 60


async def test_numbers_of_a_store_that_is_away(tmp_path: Path) -> None:
    """The time since it is away and the reason are there; the password is not."""
    conninfo = f"host={tmp_path} dbname=tickets password=secret-word"
    store = PostgreSQLStore(Database(conninfo, 0.2), Sealer([KEY]))
    with pytest.raises(StoreError):
        await store.load(1000)
    numbers = store.statistics()
    assert numbers["absences"] == 1
    assert abs(time.time() - numbers["away_since"]) < 60
    assert numbers["reason"]
    assert "secret-word" not in str(numbers)
    store.close()


def test_numbers_as_tables_and_metrics(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stats` and `metrics` show them; a store of one host has none."""
    with asyncio.Runner() as runner:
        store = PostgreSQLStore(Database(conninfo, 20.0), Sealer([KEY]))
        runner.run(commit(store, 1000, put_ccache(1000, 1)))
        control = Controlling(Server(runner, store), Config(store="postgresql"))
        [stats] = control.ask("stats")
        assert stats["ccaches"] == 1
        # The next answer counts again after a minute.
        runner.run(commit(store, 1000, put_ccache(1000, 2)))
        assert runner.run(gather(control.administration))["ccaches"] == 1
        store.close()
    lines = openmetrics(stats).splitlines()
    assert "pykcm_store_up 1" in lines
    assert "pykcm_store_conflicts_total 0" in lines
    assert 'pykcm_store_found_out_total{outcome="made"} 0' in lines
    monkeypatch.setattr(statistics, "_ask", lambda _: stats)
    output = CliRunner().invoke(statistics.stats_command, [], obj=None).output
    assert "shared store" in output
    assert ": there" in output
    assert any(line.startswith("statements to the shared store") for line in output.splitlines())
    away = stats | {"store": stats["store"] | {"away_since": stats["time"] - 7, "reason": "gone"}}
    monkeypatch.setattr(statistics, "_ask", lambda _: away)
    assert "away for 7 s: gone" in CliRunner().invoke(statistics.stats_command, [], obj=None).output
    assert "pykcm_store_up 0" in openmetrics(away).splitlines()
    assert statistics.since(away, stats)["store"]["calls"] == 0
