"""The Store interface: each test runs on each store."""

from collections.abc import Callable, Iterable
from hashlib import sha256

import pytest

from pykcm.store.interface import Store
from pykcm.store.memory import MemoryStore
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import (
    Delete,
    DeleteContainer,
    Put,
    RenameContainer,
    Secret,
    SecretChange,
    ccache_container,
    ccache_name,
    ccaches_container,
    uid_container,
)
from tests.storing import EMBEDDED_STORES, commit_changes, secrets_of

UUID = bytes(range(16))


def uuid_of(name: bytes) -> bytes:
    """The UUID of a ccache, of which no other name has the same."""
    return sha256(name).digest()[:16]


# The names of credentials: each is a UUID.
A, B, C, D = (bytes([letter] * 16).hex() for letter in b"abcd")

NAMES = [
    b"1000",
    b"1000:a/b",
    b"1000:100%",
    b"1000:%2F",
    b"1000:\xff\xfe\x01\x7f",
    b"1000: '\"\\;--\n\t",
    b"1000:*?[a]_",
    "1000:Grüße".encode(),
    b"1000:" + b"x" * 1019,
    b"1000:" + b"\xff" * 1019,
]


async def commit(store: Store, *changes: SecretChange) -> None:
    await commit_changes(store, changes)


def put_ccache(uid: int, name: bytes, value: bytes = b"{}") -> Put:
    return Put(ccaches_container(uid), ccache_name(uuid_of(name), name), value)


def put_credential(uid: int, name: bytes, credential: str, value: bytes) -> Put:
    return Put(credentials(uid, name), credential, value)


def credentials(uid: int, name: bytes) -> str:
    """The container of a ccache's credentials."""
    return ccache_container(uid, uuid_of(name), name)


def values(secrets: Iterable[Secret]) -> list[bytes]:
    return [secret.value for secret in secrets]


async def test_empty_store_has_nothing(store: Store) -> None:
    """An empty store has no secrets, UIDs or ccaches, and accepts an empty commit."""
    await commit(store)
    assert await secrets_of(store, 1000) == []
    assert await store.uids() == []
    assert await store.count_ccaches() == 0


async def test_secrets_come_back_in_order(store: Store) -> None:
    """Secrets come back as they were put, those of a container in the order of their first put."""
    await commit(store, put_ccache(1000, b"1000"))
    for name in (C, A, B):
        await commit(store, put_credential(1000, b"1000", name, name.encode()))
    assert await secrets_of(store, 1000) == [
        Secret(*put_ccache(1000, b"1000")),
        *(Secret(credentials(1000, b"1000"), name, name.encode()) for name in (C, A, B)),
    ]


async def test_value_may_be_any_bytes(store: Store) -> None:
    """A value may be any bytes, none or many."""
    written = [b"", bytes(range(256)), bytes(1 << 20)]
    puts = [put_credential(1, b"1", name, value) for name, value in zip((A, B, C), written, strict=True)]
    await commit(store, put_ccache(1, b"1", b"\0"), *puts)
    assert values(await secrets_of(store, 1)) == [b"\0", *written]


async def test_replaced_secret_keeps_its_place(store: Store) -> None:
    """A Put of an existing secret replaces it in its place."""
    await commit(store, put_ccache(1000, b"1000"))
    await commit(store, *[put_credential(1000, b"1000", name, b"old") for name in (A, B, C)])
    await commit(store, put_credential(1000, b"1000", A, b"new"))
    await commit(store, *[put_credential(1000, b"1000", B, value) for value in (b"first", b"second")])
    assert values(await secrets_of(store, 1000))[1:] == [b"new", b"second", b"old"]


async def test_secret_put_again_is_at_the_end(store: Store) -> None:
    """A secret that was deleted and put again is at the end, also if it was the last one before."""
    container = credentials(1000, b"1000")
    await commit(store, put_ccache(1000, b"1000"))
    await commit(store, *[Put(container, name, name.encode()) for name in (A, B, C)])
    await commit(store, Delete(container, A), Put(container, A, b"again"))
    assert values(await secrets_of(store, 1000))[1:] == [B.encode(), C.encode(), b"again"]
    await commit(store, Delete(container, A), Put(container, D, b"d"), Put(container, A, b"a"))
    assert values(await secrets_of(store, 1000))[1:] == [B.encode(), C.encode(), b"d", b"a"]


async def test_changes_of_a_commit_are_made_in_order(store: Store) -> None:
    """A secret deleted and put in one commit exists; one put and deleted does not."""
    container = credentials(1000, b"1000")
    ccache = put_ccache(1000, b"1000")
    await commit(store, ccache, Put(container, A, b""), Delete(container, A))
    await commit(store, Delete(container, B), Put(container, B, b"x"))
    await commit(store, Put(container, C, b""), DeleteContainer(container), Put(container, D, b"y"))
    assert await secrets_of(store, 1000) == [Secret(*ccache), Secret(container, D, b"y")]


async def test_deleting_a_missing_secret_changes_nothing(store: Store) -> None:
    """Deleting a missing secret or container is no error."""
    await commit(store, put_ccache(1000, b"1000"))
    missing = ccache_name(UUID, b"1000:missing")
    await commit(store, Delete(ccaches_container(1000), missing), Delete(uid_container(7), "default"))
    await commit(
        store, DeleteContainer(uid_container(7)), DeleteContainer(ccaches_container(1000) + f"/{missing}")
    )
    assert len(await secrets_of(store, 1000)) == 1
    assert await secrets_of(store, 7) == []
    assert await store.uids() == [1000]


async def test_delete_container_spares_other_containers(store: Store) -> None:
    """DeleteContainer deletes the container's own secrets, and none below or next to it."""
    default = Put(uid_container(1000), "default", b"default")
    others = [put_ccache(1000, b"1000:a"), put_credential(1000, b"1000:a", A, b"of the other")]
    mine = [put_ccache(1000, b"1000", b"mine"), put_credential(1000, b"1000", A, b"credential")]
    await commit(store, default, *others, *mine)
    await commit(store, DeleteContainer(credentials(1000, b"1000")))
    assert sorted(values(await secrets_of(store, 1000))) == [b"default", b"mine", b"of the other", b"{}"]
    await commit(store, DeleteContainer(uid_container(1000)))
    assert sorted(values(await secrets_of(store, 1000))) == [b"mine", b"of the other", b"{}"]


@EMBEDDED_STORES
async def test_delete_container_spares_containers_below(store: Store) -> None:
    """The credentials of a ccache stay when the container of ccaches is deleted."""
    await commit(store, put_ccache(1000, b"1000"), put_credential(1000, b"1000", A, b"credential"))
    await commit(store, DeleteContainer(ccaches_container(1000)))
    assert values(await secrets_of(store, 1000)) == [b"credential"]


async def test_rename_container_keeps_order_and_values(store: Store) -> None:
    """After RenameContainer the old path can be used again."""
    old, new = (credentials(1000, name) for name in (b"1000:old", b"1000:new"))
    ccaches = [put_ccache(1000, name) for name in (b"1000:old", b"1000:new")]
    await commit(store, *ccaches, Put(old, B, b"first"), Put(old, A, b"second"))
    renamed: list[SecretChange] = [DeleteContainer(new), RenameContainer(old, new)]
    await commit(store, *renamed, Put(old, B, b"again"), Put(new, B, b"replaced"))
    found = [secret for secret in await secrets_of(store, 1000) if secret.container in {old, new}]
    assert [secret for secret in found if secret.container == new] == [
        Secret(new, B, b"replaced"),
        Secret(new, A, b"second"),
    ]
    assert [secret for secret in found if secret.container == old] == [Secret(old, B, b"again")]
    await commit(store, *renamed)
    found = [secret for secret in await secrets_of(store, 1000) if secret.container in {old, new}]
    assert found == [Secret(new, B, b"again")]


async def test_rename_container_moves_secrets_to_another_uid(store: Store) -> None:
    """RenameContainer moves secrets from one UID's container to another's."""
    old, new = credentials(1000, b"1000"), credentials(2000, b"2000")
    await commit(store, put_ccache(1000, b"1000"), Put(old, A, b"1"), Put(old, B, b"2"))
    await commit(store, put_ccache(2000, b"2000"))
    await commit(store, DeleteContainer(new), RenameContainer(old, new))
    assert len(await secrets_of(store, 1000)) == 1
    moved = [secret for secret in await secrets_of(store, 2000) if secret.container == new]
    assert moved == [Secret(new, A, b"1"), Secret(new, B, b"2")]


async def test_load_spares_uids_with_a_common_prefix(store: Store) -> None:
    """A UID's container holds nothing of a UID whose decimal begins alike."""
    everyone = [0, 1, 10, 100, 1000, 11, 2, 2**32 - 2]
    for uid in everyone:
        await commit(
            store,
            Put(uid_container(uid), "default", b"default %d" % uid),
            put_ccache(uid, b"%d" % uid, b"ccache %d" % uid),
            put_credential(uid, b"%d" % uid, A, b"credential %d" % uid),
        )
    for uid in everyone:
        mine = [b"default %d" % uid, b"ccache %d" % uid, b"credential %d" % uid]
        assert values(await secrets_of(store, uid)) == mine
    assert await store.uids() == sorted(everyone)
    assert await store.count_ccaches() == len(everyone)
    await commit(store, DeleteContainer(credentials(1, b"1")), DeleteContainer(uid_container(1)))
    assert values(await secrets_of(store, 1)) == [b"ccache 1"]
    assert len(await secrets_of(store, 10)) == len(await secrets_of(store, 100)) == 3


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
async def test_ccache_name_may_be_any_bytes(store: Store, name: bytes) -> None:
    """A ccache's name may be any bytes except NUL: its secrets are its own and can be deleted."""
    others = [put_ccache(1000, other, other) for other in NAMES if other != name]
    await commit(store, *others)
    await commit(store, put_ccache(1000, name, b"mine"), put_credential(1000, name, A, b"credential"))
    secrets = await secrets_of(store, 1000)
    assert secrets[-2:] == [
        Secret(*put_ccache(1000, name, b"mine")),
        Secret(*put_credential(1000, name, A, b"credential")),
    ]
    assert await store.count_ccaches() == len(NAMES)
    await commit(
        store,
        DeleteContainer(credentials(1000, name)),
        Delete(ccaches_container(1000), ccache_name(uuid_of(name), name)),
    )
    assert values(await secrets_of(store, 1000)) == [put.value for put in others]


async def test_uids_have_ccaches(store: Store) -> None:
    """A UID counts while it has a ccache; a default or credentials alone do not count."""
    await commit(store, Put(uid_container(5), "default", b""))
    await commit(store, put_credential(6, b"6", A, b""))
    await commit(store, put_ccache(1000, b"1000"), put_ccache(1000, b"1000:a"), put_ccache(7, b"7"))
    assert await store.uids() == [7, 1000]
    assert await store.count_ccaches() == 3
    await commit(store, Delete(ccaches_container(7), ccache_name(uuid_of(b"7"), b"7")))
    await commit(store, DeleteContainer(ccaches_container(1000)))
    assert await store.uids() == []
    assert await store.count_ccaches() == 0


async def test_ccache_named_like_a_container_is_counted(store: Store) -> None:
    """A ccache whose name ends like a container's path is counted once, and its credentials are not."""
    name = b"1000:x/ccaches"
    await commit(store, put_ccache(1000, name), put_credential(1000, name, A, b""))
    assert await store.count_ccaches() == 1
    assert await store.uids() == [1000]


def test_store_says_whether_it_is_persistent(store: Store) -> None:
    """Only the memory store is not persistent."""
    assert store.persistent == (not isinstance(store, MemoryStore))


async def test_closed_memory_store_is_empty() -> None:
    """A closed memory store holds no secret."""
    store = MemoryStore()
    await commit(store, put_ccache(1000, b"1000"))
    store.close()
    assert await secrets_of(store, 1000) == []


async def test_memory_store_forgets_uids_without_secrets() -> None:
    """The memory store keeps nothing of a UID whose last secret and containers are deleted."""
    store = MemoryStore()
    await commit(store, put_ccache(1000, b"1000"), put_credential(1000, b"1000", "a", b""))
    await commit(
        store,
        DeleteContainer(credentials(1000, b"1000")),
        DeleteContainer(ccaches_container(1000)),
        DeleteContainer(uid_container(1000)),
    )
    assert store._trees == {}


async def test_database_has_no_rows_of_uids_without_secrets(
    open_sqlcipher: Callable[[], SQLCipherStore],
) -> None:
    """The database does not keep their containers either."""
    store = open_sqlcipher()
    await commit(store, put_ccache(1000, b"1000"), put_credential(1000, b"1000", "a", b""))
    await commit(
        store,
        DeleteContainer(credentials(1000, b"1000")),
        DeleteContainer(ccaches_container(1000)),
        DeleteContainer(uid_container(1000)),
    )
    assert store._db.execute(
        "SELECT (SELECT count(*) FROM containers) + count(*) FROM secrets"
    ).fetchall() == [(0,)]


async def test_sqlcipher_store_keeps_secrets_over_a_restart(
    open_sqlcipher: Callable[[], SQLCipherStore],
) -> None:
    """All committed secrets are there in order after a close, and can be changed."""
    store = open_sqlcipher()
    container = ccache_container(1000, UUID, b"1000")
    await commit(store, *[Put(container, name, name.encode()) for name in "bca"])
    store.close()
    store = open_sqlcipher()
    assert values(await secrets_of(store, 1000)) == [b"b", b"c", b"a"]
    await commit(store, Put(container, "c", b"new"), Put(container, "d", b"d"))
    store.close()
    assert values(await secrets_of(open_sqlcipher(), 1000)) == [b"b", b"new", b"a", b"d"]
