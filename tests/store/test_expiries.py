"""Expiries in the stores: each test runs on each store that it can."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pykcm.store.interface import Store
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.store import _EXPIRED, SQLCipherStore
from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Expired,
    Put,
    ccache_container,
    ccache_name,
    ccaches_container,
    uid_container,
)
from tests.store.test_stores import UUID, commit
from tests.storing import EMBEDDED_STORES, commit_changes, secrets_of


def put_expiring(uid: int, number: int, expires: int | None) -> Put:
    uuid = uid.to_bytes(4) + number.to_bytes(12)
    return Put(ccaches_container(uid), ccache_name(uuid, b"%d:%d" % (uid, number)), b"{}", expires)


async def expired(store: Store, until: int, after: Expired | None = None, limit: int = 100) -> list[Expired]:
    return await store.expired(until, after, limit)


async def test_expiry_is_kept(store: Store) -> None:
    """A secret comes back with the expiry of its last Put, also with none."""
    moments = [None, 0, 1, 2**32 - 1, 2**32 + 2**31]
    for expires in moments:
        await commit(store, put_expiring(1000, 1, expires))
        assert [secret.expires for secret in await secrets_of(store, 1000)] == [expires]


async def test_expired_secrets_are_returned_in_order(store: Store) -> None:
    """Secrets that expired by this time are returned, the oldest first, of all UIDs."""
    puts = {expires: put_expiring(uid, 1, expires) for uid, expires in [(3, 30), (1, 31), (2, 10), (4, 32)]}
    await commit(store, *puts.values(), put_expiring(5, 1, None))
    found = [Expired(10, puts[10].name, 2), Expired(30, puts[30].name, 3), Expired(31, puts[31].name, 1)]
    assert await expired(store, 31) == found
    assert await expired(store, 9) == []
    assert len(await expired(store, 2**40)) == 4


async def test_expired_secrets_are_returned_in_parts(store: Store) -> None:
    """Each one is returned once, also those that expired together or stay."""
    puts = [put_expiring(uid, number, 10 + number % 2) for uid in (1, 2, 3) for number in range(5)]
    await commit(store, *puts)
    whole = await expired(store, 50)
    assert len(whole) == 15
    assert whole == sorted(whole)
    parts: list[Expired] = []
    while part := await expired(store, 50, parts[-1] if parts else None, 4):
        parts += part
        if len(parts) == 8:
            await commit(store, Delete(ccaches_container(parts[7].uid), parts[7].name))
    assert parts == whole


async def test_deleted_secrets_do_not_expire(store: Store) -> None:
    """A deleted or replaced secret is not returned with its old expiry."""
    await commit(store, *[put_expiring(1, number, 10) for number in range(3)], put_expiring(2, 1, 10))
    await commit(store, Delete(ccaches_container(1), put_expiring(1, 0, 10).name))
    await commit(store, put_expiring(1, 1, 20), put_expiring(1, 2, None))
    await commit(store, DeleteContainer(ccaches_container(2)))
    assert [each.expires for each in await expired(store, 50)] == [20]


@EMBEDDED_STORES
async def test_uids_without_expiry_are_returned_in_parts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UIDs with a ccache that never expires are returned once; credentials do not count."""
    monkeypatch.setattr("pykcm.store.sqlcipher.store._CONTAINERS_AT_A_TIME", 3)
    for uid in range(1000, 1010):
        name = ccache_name(UUID, b"%d" % uid)
        inside = ccache_container(uid, UUID, b"%d" % uid)
        await commit(store, Put(ccaches_container(uid), name, b"a", 7), Put(inside, UUID.hex(), b"ticket"))
        await commit(store, Put(uid_container(uid), "default", b"d"))
    for uid in (1009, 1003):
        await commit(
            store, *(Put(ccaches_container(uid), ccache_name(UUID, name), b"b") for name in (b"x", b"y"))
        )

    async def all_parts() -> list[int]:
        found = []
        part: int | None = 0
        while part is not None:
            uids, part = await store.uids_without_expiry(part)
            found += uids
        return found

    assert await all_parts() == [1003, 1009]


def test_expired_secrets_are_found_by_an_index(open_sqlcipher: Callable[[], SQLCipherStore]) -> None:
    """The database looks only at expired secrets, and does not sort them."""
    plan = open_sqlcipher()._db.execute(f"EXPLAIN QUERY PLAN {_EXPIRED}", (50, 0, "", 10)).fetchall()
    steps = [row[3] for row in plan]
    assert len(steps) == 2
    assert steps[0].startswith("SEARCH secrets USING INDEX expiring")
    assert steps[1] == "SEARCH containers USING INTEGER PRIMARY KEY (rowid=?)"


async def test_equal_ccache_is_not_written_again(tmp_path: Path) -> None:
    """A Put of an equal ccache writes nothing; another value or expiry is written."""
    store = SQLCipherStore(tmp_path / "pykcm.db", Key(bytes(32), tmp_path))
    container = ccaches_container(1000)
    put = Put(container, ccache_name(bytes(16), b"1000"), b"value", 2000)
    changes = []
    for each in (put, put, put._replace(value=b"other"), put._replace(expires=None), put):
        before = store._db.total_changes
        await commit_changes(store, [each])
        changes.append(store._db.total_changes - before)
    store.close()
    assert changes == [3, 0, 1, 1, 1]  # the first one adds the two containers too
