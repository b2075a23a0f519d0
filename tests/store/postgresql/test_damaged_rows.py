"""Rows that cannot be unsealed: each makes one ccache unavailable, and is kept; a missing key refuses all."""

import asyncio
import errno
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pykcm.store.interface import Refused, StoreError
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.sealing import NIL, Place, Sealer, SharedKey
from pykcm.store.postgresql.store import PostgreSQLStore
from pykcm.store.tree import DeleteContainer, RenameContainer, SecretChange, ccaches_container
from tests.builders import ALICE, BOB, TGS, changed, credential_bytes, refused, ticket
from tests.control.controlling import Controlling
from tests.engine.reaping import DUE, ENDS, TICKET, fill, reap
from tests.server.asking import Server
from tests.server.programs import listed
from tests.store.postgresql.conftest import KEY, OpenStore
from tests.store.postgresql.test_store import commit, credentials, entry, put_ccache, put_credential, values

NEW = SharedKey(bytes(range(100, 132)))

GOOD, BAD = b"1000:good", b"1000:bad"
TICKETS = [credential_bytes(TGS, times=(0, 0, ENDS, 0)), ticket(changed(TGS, realm=b"R"), ends=ENDS).blob]

_IS_CCACHE = "item = '\\x00000000000000000000000000000000'"

# Assignments that damage sealed values, and keep their rows.
DAMAGES = {
    "format": "sealed = set_byte(sealed, 0, 2)",
    "key id": "sealed = set_byte(sealed, 3, get_byte(sealed, 3) # 1)",
    "nonce": "sealed = set_byte(sealed, 10, get_byte(sealed, 10) # 1)",
    "value": "sealed = set_byte(sealed, 25, get_byte(sealed, 25) # 1)",
    "cut": "sealed = substr(sealed, 1, 40)",
    "header only": "sealed = substr(sealed, 1, 20)",
    "empty": "sealed = ''",
}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for the whole test."""
    with asyncio.Runner() as runner:
        yield runner


class Site:
    """A database, and hosts on it; UID 1000 has the ccaches `1000:good` and `1000:bad`."""

    def __init__(self, runner: asyncio.Runner, conninfo: str) -> None:
        self._runner = runner
        self._conninfo = conninfo
        self._stores: list[PostgreSQLStore] = []
        client = self.host().ask_as(1000)
        for name in (GOOD, BAD):
            client.replace(name, 0, ALICE, TICKETS)
        client.set_default_cache(BAD)
        self.uuid = client.get_cache_uuid_list()[1]

    def host(self) -> Server:
        """A host that has read nothing yet."""
        self._stores.append(PostgreSQLStore(Database(self._conninfo, 20.0), Sealer([KEY])))
        return Server(self._runner, self._stores[-1])

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._conninfo) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def damage(self, assignment: str, which: str = _IS_CCACHE) -> None:
        self.execute(
            f"UPDATE pykcm.secrets SET {assignment} WHERE ccache = '\\x{self.uuid.hex()}' AND {which}"
        )

    def rows(self) -> list[tuple[Any, ...]]:
        return self.execute("SELECT * FROM pykcm.secrets ORDER BY uid, ccache, item")

    def close(self) -> None:
        for store in self._stores:
            store.close()


@pytest.fixture
def site(runner: asyncio.Runner, conninfo: str) -> Iterator[Site]:
    site = Site(runner, conninfo)
    yield site
    site.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ccache_row_makes_its_ccache_unavailable(
    site: Site, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Other ccaches and the default work on; the damaged one is listed and logged, and can be destroyed."""
    site.damage(DAMAGES[damage])
    before = site.rows()
    host = site.host()
    client, control = host.ask_as(1000), Controlling(host)
    assert listed(client) == [GOOD]
    assert client.get_cred_list(GOOD) == TICKETS
    assert client.get_default_cache() == GOOD
    name = b"1000:damaged-" + site.uuid.hex().encode()
    with refused(errno.EIO):
        client.get_principal(name)
    items = [each["ccache"] for each in control.ask("list") if "ccache" in each]
    assert [(each["name"], each["principal"] is None) for each in items] == [(GOOD, False), (name, True)]
    secret = f"/kcm/persistent/1000/ccaches/{site.uuid.hex()}-{name.decode()}"
    assert f"UID 1000: ccache KCM:{name.decode()}: secret {secret} cannot be read" in caplog.text
    assert site.rows() == before
    client.destroy(name)
    assert len(site.rows()) == len(before) - 3
    assert listed(site.host().ask_as(1000)) == [GOOD]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_credential_row_makes_its_ccache_unavailable(site: Site, damage: str) -> None:
    """The ccache of a damaged credential keeps its name, answers EIO and can be destroyed; others work on."""
    site.damage(DAMAGES[damage], f"NOT {_IS_CCACHE}")
    before = site.rows()
    host = site.host()
    client = host.ask_as(1000)
    assert listed(client) == [GOOD]
    assert client.get_cred_list(GOOD) == TICKETS
    for call in (client.get_cred_list, client.get_principal):
        with refused(errno.EIO):
            call(BAD)
    with refused(errno.EIO):
        client.initialize(BAD, BOB)
    assert site.rows() == before
    client.store(GOOD, credential_bytes(ticket=b"another"))
    client.destroy(BAD)
    client.initialize(BAD, BOB)
    assert listed(site.host().ask_as(1000)) == [GOOD, BAD]


def test_damaged_default_is_forgotten(site: Site) -> None:
    """The UID has the default that follows without a choice; its ccaches work on."""
    site.execute("UPDATE pykcm.secrets SET sealed = 'x' WHERE ccache = '\\x00000000000000000000000000000000'")
    client = site.host().ask_as(1000)
    assert listed(client) == [GOOD, BAD]
    client.set_default_cache(BAD)
    assert site.host().ask_as(1000).get_default_cache() == BAD


def test_last_readable_ccache_is_destroyed_without_the_damaged_one(site: Site) -> None:
    """A row that cannot be unsealed is not removed with the UID's other ccaches."""
    site.damage(DAMAGES["value"])
    client = site.host().ask_as(1000)
    client.destroy(GOOD)
    assert len(site.rows()) == 4, "the default, the ccache and its credentials"


@pytest.mark.parametrize(
    "damage", [*DAMAGES.values(), "expires = 5", "uid = -1", "uid = 2000", "ccache = '\\x01'"]
)
def test_reaping_passes_damaged_ccaches(site: Site, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired ccaches of all UIDs are removed; one whose row was changed stays, whatever its expiry says."""
    monkeypatch.setattr("pykcm.engine.reaper._AT_A_TIME", 1)
    fill(site.host(), 1, 3000)
    site.host().ask_as(3000).replace(b"3000:lasting", 0, ALICE, [ticket(ends=10 * ENDS).blob])
    site.damage(damage)
    [damaged] = [row for row in site.rows() if row[1] in (site.uuid, b"\x01") and row[2] == NIL]
    reap(site.host(), DUE)
    left = site.rows()
    assert damaged in left
    host = site.host()
    assert listed(host.ask_as(1000)) == []
    assert listed(host.ask_as(1)) == []
    assert listed(host.ask_as(3000)) == [b"3000:lasting"]
    assert TICKET not in host.ask_as(3000).get_cred_list(b"3000:lasting")


async def test_move_of_a_ccache_that_was_damaged_since_changes_nothing(
    shared: PostgreSQLStore, conninfo: str
) -> None:
    """A host that has the ccache in memory cannot seal its rows for another place: EIO, and all rows stay."""
    await commit(shared, 1000, put_ccache(1000, 1), put_credential(1000, 1, 1, b"t"))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE pykcm.secrets SET sealed = 'x' WHERE position % 2 = 1")
        before = connection.execute("SELECT * FROM pykcm.secrets").fetchall()
        moved: list[SecretChange] = [
            RenameContainer(credentials(1000, 1), credentials(1000, 2)),
            DeleteContainer(ccaches_container(1000)),
        ]
        [outcome] = await shared.commit([entry({1000: 1}, *moved)])
        assert type(outcome) is Refused
        assert outcome.error.code == errno.EIO
        assert "cannot be unsealed" in outcome.error.reason
        assert connection.execute("SELECT * FROM pykcm.secrets").fetchall() == before


@pytest.mark.parametrize("is_old_registered", [True, False], ids=["during a rekey", "after it"])
async def test_host_without_the_new_key_shows_nothing_as_damaged(
    open_store: OpenStore, conninfo: str, is_old_registered: bool
) -> None:
    """Loads and searches for expired ccaches fail with EACCES while other hosts seal with another key."""
    one, old = open_store(), open_store()
    await commit(one, 1000, put_ccache(1000, 1, b"{}", 10))
    register(conninfo, NEW, is_old_registered)
    reseal(conninfo, one, NEW)
    for read in (old.load(1000), old.expired(50, None, 10), old.may_reap(1.0)):
        with pytest.raises(StoreError) as raised:
            await read
        assert raised.value.code == errno.EACCES
    with psycopg.connect(conninfo) as connection:
        # The lease is another host's.
        assert connection.execute("SELECT FROM pykcm.leases WHERE until > now()").fetchall() == []


async def test_host_without_the_old_key_shows_nothing_as_damaged(
    open_store: OpenStore, conninfo: str
) -> None:
    """While a rekey is under way, a host that has only the new key is refused: EACCES."""
    one, new = open_store(), open_store(NEW)
    await commit(one, 1000, put_ccache(1000, 1, b"{}", 10))
    register(conninfo, NEW, is_old_registered=True)
    for read in (new.load(1000), new.expired(50, None, 10)):
        with pytest.raises(StoreError) as raised:
            await read
        assert raised.value.code == errno.EACCES


async def test_row_that_is_sealed_again_while_it_is_read_is_not_damaged(
    open_store: OpenStore, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rekey that ends between the read of a row and its unsealing makes the host read again."""
    one, two = open_store(), open_store(NEW)
    await commit(one, 1000, put_ccache(1000, 1, b"{1}", 10))
    register(conninfo, NEW, is_old_registered=True)
    query, queries = two._query, 0

    async def read_before_the_end(statement: str, parameters: Any) -> list[Any]:
        nonlocal queries
        queries += 1
        found = await query(statement, parameters)
        if queries == 1:
            reseal(conninfo, one, NEW)
            register(conninfo, NEW, is_old_registered=False)
        return found

    monkeypatch.setattr(two, "_query", read_before_the_end)
    assert await values(two, 1000) == [b"{1}"]
    assert queries == 2


def register(conninfo: str, sealing: SharedKey, is_old_registered: bool) -> None:
    """Note in the database which key seals, and whether some rows may still have the old one."""
    with psycopg.connect(conninfo) as connection:
        connection.execute("DELETE FROM pykcm.keys")
        connection.execute("INSERT INTO pykcm.keys (id, may_seal) VALUES (%s, true)", (sealing.id,))
        if is_old_registered:
            connection.execute("INSERT INTO pykcm.keys (id, may_seal) VALUES (%s, false)", (KEY.id,))


def reseal(conninfo: str, store: PostgreSQLStore, key: SharedKey) -> None:
    """Seal all rows again with this key."""
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT uid, ccache, item, expires, sealed FROM pykcm.secrets").fetchall()
        for *place, expires, sealed in rows:
            value = Sealer([KEY]).unseal(Place(*place), sealed, expires)
            connection.execute(
                "UPDATE pykcm.secrets SET sealed = %s WHERE (uid, ccache, item) = (%s, %s, %s)",
                (Sealer([key]).seal(Place(*place), value, expires), *place),
            )
