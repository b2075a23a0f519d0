"""The change of the shared key: two keys on each host, rows sealed again, hosts that lack a key."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import NoneType

import psycopg
import pytest

from pykcm.store.copies import Copied, Rekeyed, StoreBusyError, UnsupportedError
from pykcm.store.interface import Blocked, Committed, Outcome, Refused, StoreError
from pykcm.store.postgresql import rekey as rekey_module
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.keyring import KeyFiles
from pykcm.store.postgresql.rekey import Rekeying
from pykcm.store.postgresql.sealing import Place, Sealer, SharedKey
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.store.postgresql.conftest import KEY
from tests.store.postgresql.test_store import commit, entry, put_ccache, put_credential, values

OLD = bytes(range(32))
NEW = bytes(range(100, 132))
OTHER = bytes(range(200, 232))


class Host:
    """A host with its own key files."""

    def __init__(self, folder: Path, conninfo: str) -> None:
        folder.mkdir()
        self.key_file = folder / "key"
        self.give(self.key_file, OLD)
        self._files = KeyFiles(self.key_file)
        self._conninfo = conninfo
        self.open()

    @property
    def next_file(self) -> Path:
        return self.key_file.with_name("key.next")

    @staticmethod
    def give(path: Path, key: bytes) -> None:
        path.write_bytes(key)
        path.chmod(0o600)

    def open(self) -> None:
        """Start, with the keys that are in the files now."""
        database = Database(self._conninfo, 20.0)
        self.store = PostgreSQLStore(database, Sealer(self._files.read()), self._files)
        self.rekeying = Rekeying(database, self.store.keyring, self._files)

    async def rekey(self, raw: bytes | None = None) -> list[Copied | Rekeyed]:
        return [step async for step in self.rekeying.rekey(raw)]


@pytest.fixture
async def add_host(conninfo: str, tmp_path: Path) -> AsyncIterator[Callable[[], Host]]:
    """Adds a host with the old key."""
    hosts: list[Host] = []

    def add() -> Host:
        hosts.append(Host(tmp_path / f"host{len(hosts)}", conninfo))
        return hosts[-1]

    yield add
    for host in hosts:
        host.store.close()


def key_ids_of_rows(conninfo: str) -> set[bytes]:
    with psycopg.connect(conninfo) as connection:
        found = connection.execute("SELECT DISTINCT substring(sealed FROM 2 FOR 8) FROM pykcm.secrets")
        return {key_id for (key_id,) in found.fetchall()}


def registered(conninfo: str) -> dict[bytes, bool]:
    with psycopg.connect(conninfo) as connection:
        return dict(connection.execute("SELECT id, may_seal FROM pykcm.keys").fetchall())


async def fill(store: PostgreSQLStore, uids: range) -> None:
    for uid in uids:
        items = [put_credential(uid, 1, item, b"ticket %d" % item) for item in range(1, 6)]
        await commit(store, uid, put_ccache(uid, 1, b"{1}", 77), *items)


async def test_rekey_seals_all_rows_again_and_hosts_go_on(
    add_host: Callable[[], Host], conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rekey on one host no row has the old key; contents, versions and the other host go on."""
    monkeypatch.setattr(rekey_module, "_ROWS", 7)
    one, two = add_host(), add_host()
    await fill(one.store, range(1000, 1010))
    before = {uid: await two.store.load(uid) for uid in range(1000, 1010)}
    for host in (one, two):
        host.give(host.next_file, NEW)
    *progress, end = await one.rekey()
    assert progress[0] == Copied(0, 10)
    assert progress[-1] == Copied(10, 10)
    assert type(end) is Rekeyed
    assert (end.key, end.is_pending, end.is_shared) == (one.key_file, False, True)
    assert key_ids_of_rows(conninfo) == {SharedKey(NEW).id}
    assert registered(conninfo) == {SharedKey(NEW).id: True}
    assert {uid: await two.store.load(uid) for uid in range(1000, 1010)} == before
    assert await two.store.commit([entry({1000: 1}, put_ccache(1000, 2))]) == [Committed({1000: 2})]
    assert key_ids_of_rows(conninfo) == {SharedKey(NEW).id}
    assert (one.key_file.read_bytes(), one.next_file.exists()) == (NEW, False)
    # The other host's files follow when it next reaps.
    await two.store.may_reap(0)
    assert (two.key_file.read_bytes(), two.next_file.exists()) == (NEW, False)


async def test_host_with_only_the_old_key_stops_serving_and_comes_back(
    add_host: Callable[[], Host], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses reads, look-ups and commits with EACCES and says why, until it gets the new key."""
    monkeypatch.setattr("pykcm.store.postgresql.keyring._PAUSE", 0.0)
    one, two = add_host(), add_host()
    await fill(one.store, range(1000, 1002))
    one.give(one.next_file, NEW)
    await one.rekey()
    for call in (two.store.load(1000), two.store.versions([1000])):
        with pytest.raises(StoreError) as raised:
            await call
        assert raised.value.code == errno.EACCES
    [outcome] = await two.store.commit([entry({1000: 1}, put_ccache(1000, 2))])
    assert type(outcome) is Refused
    assert outcome.error.code == errno.EACCES
    lines = [message for message in caplog.messages if "requests are refused" in message]
    assert len(lines) == 1
    assert f"give it the new key as {two.next_file}" in lines[0] or "give it theirs" in lines[0]
    two.give(two.next_file, NEW)
    assert await values(two.store, 1000) == await values(one.store, 1000)
    assert (await one.store.load(1000)).version == 1
    assert await two.store.commit([entry({1000: 1}, put_ccache(1000, 2))]) == [Committed({1000: 2})]


async def test_host_with_only_the_new_key_refuses_rows_of_the_old_one(
    add_host: Callable[[], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a rekey a host without the old key refuses, and loses nothing."""
    one, two = add_host(), add_host()
    await fill(one.store, range(1000, 1002))
    one.give(one.next_file, NEW)
    two.give(two.key_file, NEW)
    two.open()
    steps = one.rekeying.rekey(None)
    await anext(steps)
    with pytest.raises(StoreError, match=r"give it .* as well") as raised:
        await two.store.load(1000)
    assert raised.value.code == errno.EACCES
    await steps.aclose()
    await one.rekey()
    monkeypatch.setattr("pykcm.store.postgresql.keyring._PAUSE", 0.0)
    assert len(await values(two.store, 1000)) == 6


async def test_interrupted_rekey_goes_on(add_host: Callable[[], Host], conninfo: str) -> None:
    """After a crash in the middle both keys work everywhere; rekey on another host completes it."""
    one, two = add_host(), add_host()
    await fill(one.store, range(1000, 1004))
    for host in (one, two):
        host.give(host.next_file, NEW)
    steps = one.rekeying.rekey(None)
    await anext(steps)
    await steps.aclose()
    assert registered(conninfo) == {SharedKey(NEW).id: True, KEY.id: False}
    await commit(one.store, 1000, put_credential(1000, 1, 9, b"sealed with the new key"))
    assert key_ids_of_rows(conninfo) == {SharedKey(NEW).id, KEY.id}
    one.store.close()
    one.open()
    assert len(await values(one.store, 1000)) == 7
    await two.rekey()
    assert key_ids_of_rows(conninfo) == {SharedKey(NEW).id}
    assert registered(conninfo) == {SharedKey(NEW).id: True}


async def test_two_hosts_may_rekey_at_once(add_host: Callable[[], Host], conninfo: str) -> None:
    """Two hosts with the same next key that rekey together both succeed, and each row is right."""
    hosts = [add_host(), add_host()]
    await fill(hosts[0].store, range(1000, 1010))
    before = [await values(hosts[0].store, uid) for uid in range(1000, 1010)]
    for host in hosts:
        host.give(host.next_file, NEW)
    await asyncio.gather(*(host.rekey() for host in hosts))
    assert registered(conninfo) == {SharedKey(NEW).id: True}
    for host in hosts:
        assert [await values(host.store, uid) for uid in range(1000, 1010)] == before


async def test_only_one_of_two_different_next_keys_is_used(
    add_host: Callable[[], Host], conninfo: str
) -> None:
    """Of two hosts with different next keys one rekeys; the other is refused and told why."""
    one, two = add_host(), add_host()
    await fill(one.store, range(1000, 1004))
    one.give(one.next_file, NEW)
    two.give(two.next_file, OTHER)
    results = await asyncio.gather(one.rekey(), two.rekey(), return_exceptions=True)
    [refusal] = [result for result in results if isinstance(result, Exception)]
    assert isinstance(refusal, UnsupportedError)
    assert "give all hosts the same two keys" in str(refusal)
    assert len(registered(conninfo)) == 1
    assert len(key_ids_of_rows(conninfo)) == 1


async def test_rekey_and_commits_at_the_same_time(
    add_host: Callable[[], Host], conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits of another host during a rekey are kept: a row that changed is not overwritten."""
    monkeypatch.setattr(rekey_module, "_ROWS", 1)
    one, two = add_host(), add_host()
    await fill(one.store, range(1000, 1003))
    for host in (one, two):
        host.give(host.next_file, NEW)
    is_over = asyncio.Event()

    async def write() -> int:
        number = 0
        while not is_over.is_set() or not number:
            number += 1
            version = (await two.store.load(1000)).version
            outcome: Outcome | Blocked | None = None
            # A batch of the rekey may hold the collection for a moment.
            while type(outcome) in {NoneType, Blocked}:
                put = put_credential(1000, 1, 1, b"%d" % number)
                [outcome] = await two.store.commit([entry({1000: version}, put)])
            assert type(outcome) is Committed
        return number

    writing = asyncio.create_task(write())
    await one.rekey()
    is_over.set()
    number = await writing
    assert b"%d" % number in await values(one.store, 1000)
    assert key_ids_of_rows(conninfo) == {SharedKey(NEW).id}


async def test_transaction_that_began_before_is_waited_for(
    add_host: Callable[[], Host], conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old key is kept while a transaction runs that may still write rows with it."""
    monkeypatch.setattr(rekey_module, "_PATIENCE", 0.0)
    one = add_host()
    await fill(one.store, range(1000, 1001))
    one.give(one.next_file, NEW)
    sealed = Sealer([KEY])
    async with await psycopg.AsyncConnection.connect(conninfo) as late:
        await late.execute("INSERT INTO pykcm.collections VALUES (7, 1)")
        with pytest.raises(StoreBusyError, match="call rekey again"):
            await one.rekey()
        assert registered(conninfo) == {SharedKey(NEW).id: True, KEY.id: False}
        ccache = put_ccache(7, 1)
        value = ccache.name.encode() + b"\0" + ccache.value
        place = Place(7, bytes(15) + b"\1")
        await late.execute(
            "INSERT INTO pykcm.secrets VALUES (7, %s, %s, 1, NULL, %s)",
            (place.ccache, place.item, sealed.seal(place, value, None)),
        )
    await one.rekey()
    assert await values(one.store, 7) == [b"{}"]
    assert registered(conninfo) == {SharedKey(NEW).id: True}


async def test_rekey_without_a_next_key_is_refused(add_host: Callable[[], Host], conninfo: str) -> None:
    """No key is made silently: all hosts must have it first. Neither is a key taken for one host alone."""
    host = add_host()
    with pytest.raises(UnsupportedError, match="on every host"):
        await host.rekey()
    host.give(host.next_file, NEW)
    with pytest.raises(UnsupportedError, match="without --new-key"):
        await host.rekey(OTHER)
    host.give(host.next_file, OLD)
    with pytest.raises(UnsupportedError, match="holds the present key"):
        await host.rekey()
    assert registered(conninfo) == {KEY.id: True}


async def test_damaged_row_does_not_stop_a_rekey(
    add_host: Callable[[], Host], conninfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that cannot be unsealed stays as it is, and is logged; all others are sealed again."""
    host = add_host()
    await fill(host.store, range(1000, 1002))
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "UPDATE pykcm.secrets SET sealed = set_byte(sealed, 30, 0) WHERE uid = 1000 AND expires = 77"
        )
        connection.execute(
            "UPDATE pykcm.secrets SET sealed = set_byte(sealed, 31, 0) WHERE uid = 1000 AND expires = 77"
        )
    host.give(host.next_file, NEW)
    await host.rekey()
    assert "UID 1000: a row cannot be unsealed" in caplog.text
    assert len(await values(host.store, 1001)) == 6


async def test_keys_that_others_can_read_are_refused(add_host: Callable[[], Host]) -> None:
    """A next key of a wrong mode or size is refused with its path."""
    host = add_host()
    host.give(host.next_file, NEW)
    host.next_file.chmod(0o644)
    with pytest.raises(UnsupportedError, match="others than its owner"):
        await host.rekey()
    host.give(host.next_file, os.urandom(31))
    with pytest.raises(UnsupportedError, match="31 bytes"):
        await host.rekey()
