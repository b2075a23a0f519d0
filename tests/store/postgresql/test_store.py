"""The shared store on a real server: versions, conflicts, order, several UIDs, lost answers."""

import itertools
import os
from collections.abc import Mapping

import psycopg
import pytest

from pykcm.store.interface import Committed, Conflict, Entry, Refused, StoreError
from pykcm.store.postgresql.sealing import SharedKey
from pykcm.store.postgresql.store import PostgreSQLStore
from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Expired,
    Put,
    RenameContainer,
    Secret,
    SecretChange,
    ccache_container,
    ccache_name,
    ccaches_container,
    uid_container,
)
from tests.store.postgresql.conftest import OpenStore

_NUMBERS = itertools.count()


def uuid(number: int) -> bytes:
    return number.to_bytes(16)


def entry(bases: Mapping[int, int], *changes: SecretChange) -> Entry:
    return Entry(changes, bases, 0, os.urandom(8) + next(_NUMBERS).to_bytes(8))


def put_ccache(uid: int, number: int, value: bytes = b"{}", expires: int | None = None) -> Put:
    return Put(ccaches_container(uid), ccache_name(uuid(number), b"%d:%d" % (uid, number)), value, expires)


def credentials(uid: int, number: int) -> str:
    """The container of a ccache's credentials."""
    return ccache_container(uid, uuid(number), b"%d:%d" % (uid, number))


def put_credential(uid: int, number: int, item: int, value: bytes) -> Put:
    return Put(credentials(uid, number), uuid(item).hex(), value)


async def commit(store: PostgreSQLStore, uid: int, *changes: SecretChange) -> None:
    """Commit on the newest version."""
    version = (await store.load(uid)).version
    assert await store.commit([entry({uid: version}, *changes)]) == [Committed({uid: version + 1})]


async def values(store: PostgreSQLStore, uid: int) -> list[bytes]:
    return [secret.value for secret in (await store.load(uid)).secrets]


async def test_unknown_uid_is_empty_at_version_0(shared: PostgreSQLStore) -> None:
    """A UID of which nothing was ever stored has version 0 and no secrets."""
    assert await shared.load(1000) == (0, [])
    assert await shared.uids() == []
    assert await shared.count_ccaches() == 0


async def test_secrets_come_back_in_the_order_of_their_first_put(shared: PostgreSQLStore) -> None:
    """Default, ccache and credentials come back as they were put; an overwritten one keeps its place."""
    default = Put(uid_container(1000), "default", b"default")
    first, second = (put_credential(1000, 1, item, b"%d" % item) for item in (9, 2))
    await commit(shared, 1000, default, put_ccache(1000, 1, b"{1}", 77), first, second)
    await commit(shared, 1000, first._replace(value=b"again"), put_credential(1000, 1, 1, b"last"))
    assert (await shared.load(1000)).secrets == [
        Secret(*default),
        Secret(*put_ccache(1000, 1, b"{1}", 77)),
        Secret(credentials(1000, 1), uuid(9).hex(), b"again"),
        Secret(*second),
        Secret(credentials(1000, 1), uuid(1).hex(), b"last"),
    ]


async def test_secret_put_twice_in_one_entry_keeps_its_first_place(shared: PostgreSQLStore) -> None:
    """A credential that one entry adds and overwrites stands where it was added first."""
    puts = [put_credential(1000, 1, item, b"%d" % item) for item in (5, 4, 7)]
    await commit(shared, 1000, put_ccache(1000, 1), *puts, puts[1]._replace(value=b"again"))
    assert await values(shared, 1000) == [b"{}", b"5", b"again", b"7"]


async def test_secret_deleted_and_put_again_stands_at_the_end(shared: PostgreSQLStore) -> None:
    """A credential that one entry deletes and puts again comes after the others."""
    puts = [put_credential(1000, 1, item, b"%d" % item) for item in (1, 2)]
    await commit(shared, 1000, put_ccache(1000, 1, b"{}"), *puts)
    await commit(shared, 1000, Delete(credentials(1000, 1), uuid(1).hex()), puts[0])
    assert await values(shared, 1000) == [b"{}", b"2", b"1"]
    await commit(shared, 1000, DeleteContainer(credentials(1000, 1)), puts[0], puts[1])
    assert await values(shared, 1000) == [b"{}", b"1", b"2"]


async def test_put_and_deleted_in_one_entry_is_not_there(shared: PostgreSQLStore) -> None:
    """Changes of one entry count in their order."""
    put = put_credential(1000, 1, 1, b"gone")
    container = credentials(1000, 1)
    await commit(shared, 1000, put_ccache(1000, 1), put, Delete(container, put.name))
    await commit(shared, 1000, put, DeleteContainer(container), put_credential(1000, 1, 2, b"here"))
    assert await values(shared, 1000) == [b"{}", b"here"]


async def test_cleared_containers_keep_what_is_below_and_beside(shared: PostgreSQLStore) -> None:
    """A ccache's credentials, the ccaches, and the default are each cleared by themselves."""
    everything = [Put(uid_container(1000), "default", b"d")]
    everything += [put_ccache(1000, n, b"c%d" % n) for n in (1, 2)]
    everything += [put_credential(1000, n, 7, b"t%d" % n) for n in (1, 2)]
    await commit(shared, 1000, *everything)
    await commit(shared, 1000, DeleteContainer(credentials(1000, 1)))
    assert await values(shared, 1000) == [b"d", b"c1", b"c2", b"t2"]
    await commit(shared, 1000, DeleteContainer(uid_container(1000)))
    assert await values(shared, 1000) == [b"c1", b"c2", b"t2"]
    await commit(shared, 1000, DeleteContainer(ccaches_container(1000)), put_ccache(1000, 2, b"c2"))
    assert await values(shared, 1000) == [b"t2", b"c2"]


async def test_entry_on_an_old_version_changes_nothing(open_store: OpenStore) -> None:
    """Of two hosts that build on one version, the second one gets a conflict."""
    one, two = open_store(), open_store()
    await commit(one, 1000, put_ccache(1000, 1))
    assert await two.commit([entry({1000: 0}, put_ccache(1000, 2))]) == [Conflict((1000,))]
    assert await two.commit([entry({1000: 1}, put_ccache(1000, 2))]) == [Committed({1000: 2})]
    assert await one.commit([entry({1000: 1}, DeleteContainer(ccaches_container(1000)))]) == [
        Conflict((1000,))
    ]
    assert await one.count_ccaches() == 2


async def test_conflict_of_one_entry_leaves_the_others(open_store: OpenStore) -> None:
    """Entries that are committed together have outcomes of their own."""
    one, two = open_store(), open_store()
    await commit(two, 2000, put_ccache(2000, 1))
    outcomes = await one.commit([entry({uid: 0}, put_ccache(uid, 5)) for uid in (3000, 2000, 1000)])
    assert outcomes == [Committed({3000: 1}), Conflict((2000,)), Committed({1000: 1})]
    assert await one.uids() == [1000, 2000, 3000]
    assert await one.versions([1000, 2000, 3000, 4000]) == {1000: 1, 2000: 1, 3000: 1, 4000: 0}


async def test_entry_that_would_exceed_the_number_of_ccaches_is_a_conflict(shared: PostgreSQLStore) -> None:
    """The database decides with its own count; entries that add nothing, and those with room, are made."""
    entries = [
        entry({uid: 0}, put_ccache(uid, 1))._replace(added=1, most_ccaches=2) for uid in (1000, 2000, 3000)
    ]
    assert await shared.commit(entries) == [
        Committed({1000: 1}),
        Committed({2000: 1}),
        Conflict((3000,)),
    ]
    replaced = entry({1000: 1}, put_ccache(1000, 1, b"new"))._replace(added=0, most_ccaches=2)
    assert await shared.commit([replaced]) == [Committed({1000: 2})]
    assert await shared.uids() == [1000, 2000]


async def test_entries_of_one_uid_in_one_commit_build_on_each_other(shared: PostgreSQLStore) -> None:
    """Entries with a UID in common are committed one after the other."""
    entries = [entry({1000: base}, put_ccache(1000, base + 1, b"%d" % base)) for base in (0, 1, 5, 2)]
    assert await shared.commit(entries) == [
        Committed({1000: 1}),
        Committed({1000: 2}),
        Conflict((1000,)),
        Committed({1000: 3}),
    ]
    assert await values(shared, 1000) == [b"0", b"1", b"2"]


async def test_entry_of_two_uids_is_made_whole_or_not_at_all(shared: PostgreSQLStore) -> None:
    """A ccache that is moved to another UID leaves the one and reaches the other, or neither."""
    puts = [put_credential(1000, 1, item, b"ticket %d" % item) for item in (2, 1)]
    await commit(shared, 1000, put_ccache(1000, 1), *puts)
    await commit(shared, 2000, put_ccache(2000, 3), put_credential(2000, 3, 9, b"old"))
    changes: list[SecretChange] = [
        DeleteContainer(credentials(2000, 3)),
        RenameContainer(credentials(1000, 1), credentials(2000, 3)),
        DeleteContainer(ccaches_container(1000)),
    ]
    for bases in ({1000: 1, 2000: 0}, {1000: 0, 2000: 1}):
        [outcome] = await shared.commit([entry(bases, *changes)])
        assert type(outcome) is Conflict
    assert await values(shared, 2000) == [b"{}", b"old"]
    [outcome] = await shared.commit([entry({1000: 1, 2000: 1}, *changes)])
    assert outcome == Committed({1000: 2, 2000: 2})
    assert await shared.load(1000) == (2, [])
    assert await values(shared, 2000) == [b"{}", b"ticket 2", b"ticket 1"]


async def test_outcome_of_a_commit_is_found_out(shared: PostgreSQLStore) -> None:
    """A commit that was made is known by its id; one that was not made can never be made afterwards."""
    made, late = entry({1000: 0}, put_ccache(1000, 1)), entry({1000: 1}, put_ccache(1000, 2))
    await shared.commit([made])
    assert await shared.outcome(made) == Committed({1000: 1})
    assert await shared.outcome(late) is None
    [outcome] = await shared.commit([late])
    assert type(outcome) is Refused
    assert await shared.load(1000) == (1, [Secret(*put_ccache(1000, 1))])


async def test_expired_ccaches_come_in_parts_and_in_order(shared: PostgreSQLStore) -> None:
    """Expired ccaches of all UIDs come once each, the oldest first; later and endless ones do not."""
    for uid in (1, 2, 3):
        puts = [put_ccache(uid, uid * 100 + n, b"{}", 10 + n % 2) for n in range(5)]
        await commit(shared, uid, *puts, put_ccache(uid, uid * 100 + 50, b"{}", 60), put_ccache(uid, uid))
    whole = await shared.expired(50, None, 100)
    assert len(whole) == 15
    assert whole == sorted(whole)
    parts: list[Expired] = []
    while part := await shared.expired(50, parts[-1] if parts else None, 4):
        parts += part
    assert parts == whole
    # No older version has stored wrong expiries here.
    assert await shared.uids_without_expiry(0) == ([], None)


async def test_unknown_key_does_not_seal(open_store: OpenStore) -> None:
    """A host whose key the others do not have changes nothing, and is told why."""
    other = open_store(SharedKey(bytes(32)))
    for entries in (
        [entry({1000: 0}, put_ccache(1000, 1))],
        [entry({1000: 0, 2000: 0}, put_ccache(1000, 1))],
        [entry({uid: 0}, put_ccache(uid, 1)) for uid in (1000, 2000)],
    ):
        for outcome in await other.commit(entries):
            assert type(outcome) is Refused
            assert "is not the other hosts'" in outcome.error.reason
    with pytest.raises(StoreError, match="is not the other hosts'"):
        await other.load(1000)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE pykcm.secrets SET uid = 2000",
        "UPDATE pykcm.secrets SET ccache = '\\x00000000000000000000000000000002'",
        "UPDATE pykcm.secrets SET ccache = '\\x000000000000000000000000000000010000'",
        "UPDATE pykcm.secrets SET expires = 5",
        "UPDATE pykcm.secrets SET sealed = set_byte(sealed, 30, get_byte(sealed, 30) # 1)",
        "UPDATE pykcm.secrets SET sealed = substr(sealed, 1, 20)",
    ],
)
async def test_row_that_was_moved_or_changed_has_no_value(
    shared: PostgreSQLStore, conninfo: str, damage: str
) -> None:
    """A row of another UID, ccache or expiry, or with another value, is not read."""
    await commit(shared, 1000, put_ccache(1000, 1))
    with psycopg.connect(conninfo) as connection:
        connection.execute("INSERT INTO pykcm.collections VALUES (2000, 1)")
        connection.execute(damage.encode())
    [secret] = (await shared.load(2000 if "uid" in damage else 1000)).secrets
    assert secret.damage
    assert secret.value == b""


async def test_database_sees_nothing(shared: PostgreSQLStore, conninfo: str) -> None:
    """Names, values and principals are in no table."""
    name = b"1000:visible-name"
    ccache = Put(ccaches_container(1000), ccache_name(uuid(1), name), b"visible-principal")
    ticket = Put(ccache_container(1000, uuid(1), name), uuid(2).hex(), b"visible-ticket")
    await commit(shared, 1000, Put(uid_container(1000), "default", b"visible-name"), ccache, ticket)
    with psycopg.connect(conninfo) as connection:
        for table in ("collections", "secrets", "commits", "keys"):
            for row in connection.execute(f"SELECT * FROM pykcm.{table}".encode()).fetchall():
                assert b"visible" not in b"".join(each for each in row if isinstance(each, bytes))
