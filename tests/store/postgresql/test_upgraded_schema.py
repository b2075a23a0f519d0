"""A schema that was upgraded while a host is running: the host notices it, says so, and changes nothing."""

import errno
import logging
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pykcm.store.copies import Copied
from pykcm.store.interface import Committed, Refused, StoreError
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.keyring import KeyFiles
from pykcm.store.postgresql.rekey import Rekeying
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.server.waiting import until
from tests.store.postgresql.conftest import KEY
from tests.store.postgresql.test_store import commit, entry, put_ccache, put_credential


def set_version(conninfo: str, version: int) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("UPDATE pykcm.schema SET version = %s", (version,))


def rows(conninfo: str) -> list[object]:
    with psycopg.connect(conninfo) as connection:
        return [
            connection.execute(f"SELECT t::text FROM pykcm.{table} t ORDER BY 1".encode()).fetchall()
            for table in ("collections", "secrets", "keys", "leases", "schema")
        ]


@pytest.mark.parametrize(
    ("version", "way_out"), [(2, "install the newer pykcm that has made it"), (0, "pykcmctl store upgrade")]
)
async def test_running_host_refuses_everything_under_another_schema(
    shared: PostgreSQLStore, conninfo: str, version: int, way_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads, look-ups, commits and the lease fail with EIO and one line in the log; no row is changed."""
    await commit(shared, 1000, put_ccache(1000, 1, b"{}", 10), put_credential(1000, 1, 1, b"ticket"))
    set_version(conninfo, version)
    before = rows(conninfo)
    for read in (
        shared.load(1000),
        shared.load(2000),
        shared.versions([1000]),
        shared.freshness.newest_version(1000),
        shared.may_reap(60.0),
    ):
        with pytest.raises(StoreError, match=way_out) as raised:
            await read
        assert raised.value.code == errno.EIO
    for entries in (
        [entry({1000: 1}, put_ccache(1000, 2))],
        [entry({1000: 1, 2000: 0}, put_ccache(1000, 2))],
        [entry({uid: 0}, put_ccache(uid, 1)) for uid in (2000, 3000)],
        [entry({2000: 0}, put_ccache(2000, 2))._replace(added=1, most_ccaches=9)],
    ):
        for outcome in await shared.commit(entries):
            assert type(outcome) is Refused
            assert way_out in outcome.error.reason
    assert rows(conninfo) == before
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert f"the schema has version {version} now" in caplog.text
    assert "requests are refused" in caplog.text


async def test_host_serves_again_under_its_own_schema(shared: PostgreSQLStore, conninfo: str) -> None:
    """Where an upgrade is taken back from a backup, the host goes on by itself, with what was stored."""
    await commit(shared, 1000, put_ccache(1000, 1))
    before = await shared.load(1000)
    set_version(conninfo, 2)
    with pytest.raises(StoreError):
        await shared.load(1000)
    set_version(conninfo, 1)
    assert await shared.load(1000) == before
    assert await shared.commit([entry({1000: 1}, put_ccache(1000, 2))]) == [Committed({1000: 2})]


async def test_host_that_listens_asks_again_under_another_schema(conninfo: str) -> None:
    """It notices the upgrade without a request, and knows no newest version any more."""
    store = PostgreSQLStore(Database(conninfo, 20.0), Sealer([KEY]), listens=True)
    with closing(store):
        freshness = store.freshness
        await store.load(1000)
        await until(lambda: getattr(freshness, "listens"))  # noqa: B009 - of the one that listens
        assert await freshness.newest_version(1000) == 0
        assert freshness.is_known_newest(1000, 0)
        set_version(conninfo, 2)
        await until(lambda: not freshness.is_known_newest(1000, 0))
        with pytest.raises(StoreError, match="the schema has version 2"):
            await freshness.newest_version(1000)


async def test_rekey_does_not_begin_under_another_schema(
    shared: PostgreSQLStore, conninfo: str, tmp_path: Path
) -> None:
    """A host that does not know the schema notes no next key in it."""
    for name, raw in (("key", bytes(range(32))), ("key.next", bytes(32))):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_bytes(raw)
    set_version(conninfo, 2)
    before = rows(conninfo)
    rekeying = Rekeying(shared.database, shared.keyring, KeyFiles(tmp_path / "key"))
    with pytest.raises(StoreError, match="the schema has version 2"):
        assert [type(step) async for step in rekeying.rekey(None)] == [Copied]
    assert rows(conninfo) == before
