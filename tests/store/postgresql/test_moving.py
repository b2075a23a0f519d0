"""`pykcmctl store copy`: ccaches of an embedded store come to a shared one and back; none is overwritten."""

import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from pykcm.cli.main import cli
from pykcm.config import load_config
from pykcm.store import documents, moving
from pykcm.store.interface import Entry, Outcome, Refused, Store, StoreError, StoreUnusableError, Unknown
from pykcm.store.keys import Key
from pykcm.store.memory import MemoryStore
from pykcm.store.moving import Moved, copy_secrets
from pykcm.store.offline import become_owner
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, Secret, ccache_container, ccache_name, ccaches_container, uid_container
from tests.builders import ALICE, TGS, changed, ticket
from tests.server.asking import Server
from tests.server.programs import listed
from tests.store.postgresql.administrator import Administrator, administrator
from tests.store.postgresql.conftest import KEY

__all__ = ["administrator"]

RAW = bytes(range(32))
USERS = range(1000, 1100)
LABEL = "system_u:system_r:container_t:s0:c1,c2"


def puts_of(uid: int, ccaches: int) -> list[Put]:
    """A default, and ccaches with an offset, a label, an expiry and two credentials each."""
    default = documents.DefaultDocument(documents.VERSION, f"{uid}:2", {"s0:c1": f"{uid}:1"})
    puts = [Put(uid_container(uid), "default", documents.encode(default))]
    principal = documents.to_principal_document(ALICE)
    for number in range(ccaches, 0, -1):
        uuid, name = uid.to_bytes(8) + number.to_bytes(8), b"%d:%d" % (uid, number)
        document = documents.CCacheDocument(
            documents.VERSION, number - 5, principal, LABEL if number % 2 else None
        )
        puts.append(
            Put(
                ccaches_container(uid),
                ccache_name(uuid, name),
                documents.encode(document),
                2_000_000_000 + number,
            )
        )
        container = ccache_container(uid, uuid, name)
        puts += [
            Put(container, os.urandom(16).hex(), ticket(ends=2_000_000_000 + number).blob),
            Put(container, os.urandom(16).hex(), ticket(changed(TGS, realm=b"R%d" % number)).blob),
        ]
    return puts


async def fill(store: Store, users: range, ccaches: int) -> None:
    for uid in users:
        puts = puts_of(uid, ccaches)
        await store.commit([Entry(puts, {uid: 0}, id=os.urandom(16))])


async def contents(store: Store, users: range) -> dict[int, list[Secret]]:
    return {uid: (await store.load(uid)).secrets for uid in users}


class Places:
    """An embedded store, a shared one and another embedded one, each with its configuration file."""

    def __init__(self, folder: Path, administrator: Administrator) -> None:
        self._folder = folder
        administrator.init()
        self.conninfo = administrator.role
        self.first = self._configure("first", 'store = "sqlcipher"')
        self.shared = self._configure("shared", f'store = "postgresql"\npostgresql = """{self.conninfo}"""')
        self.second = self._configure("second", 'store = "sqlcipher"')

    def _configure(self, name: str, options: str) -> Path:
        folder = self._folder / name
        folder.mkdir(0o700)
        (folder / "key").write_bytes(RAW)
        (folder / "key").chmod(0o600)
        config = self._folder / f"{name}.toml"
        config.write_text(f'state_dir = "{folder}"\n{options}\n')
        return config

    def open_embedded(self, config: Path) -> SQLCipherStore:
        folder = config.with_suffix("")
        return SQLCipherStore(folder / "pykcm.db", Key(RAW, folder / "key"), "normal")

    def open_shared(self) -> PostgreSQLStore:
        return PostgreSQLStore(Database(self.conninfo, 20.0), Sealer([KEY]))

    def copy(self, source: Path, target: Path, *options: str) -> Result:
        return CliRunner().invoke(cli, ["store", "copy", str(source), str(target), *options])


@pytest.fixture
def places(tmp_path: Path, administrator: Administrator) -> Places:
    """Empty stores."""
    return Places(tmp_path, administrator)


def test_ten_thousand_ccaches_there_and_back(places: Places) -> None:
    """Owner, order, defaults, labels, offsets, expiries and credentials are the same after both ways."""
    with asyncio.Runner() as runner:
        store: Store = places.open_embedded(places.first)
        runner.run(fill(store, USERS, 100))
        before = runner.run(contents(store, USERS))
        store.close()
    done = places.copy(places.first, places.shared)
    assert (done.exit_code, "copied: 10000 ccaches of 100 users" in done.output) == (0, True), done.output
    with asyncio.Runner() as runner:
        store = places.open_shared()
        assert runner.run(store.count_ccaches()) == 10_000
        assert runner.run(contents(store, USERS)) == before
        runner.run(asyncio.sleep(0))
        store.close()
    done = places.copy(places.shared, places.second)
    assert (done.exit_code, "copied: 10000 ccaches of 100 users" in done.output) == (0, True), done.output
    with asyncio.Runner() as runner:
        store = places.open_embedded(places.second)
        assert runner.run(contents(store, USERS)) == before
        client = Server(runner, store).ask_as(1000)
        assert client.get_default_cache() == b"1000:2"
        assert listed(client)[:2] == [b"1000:100", b"1000:99"]
        store.close()


def test_second_copy_changes_nothing(places: Places) -> None:
    """A UID that is the same on both sides is unchanged; the exit status is 0."""
    with asyncio.Runner() as runner:
        store = places.open_embedded(places.first)
        runner.run(fill(store, range(1000, 1003), 2))
        store.close()
    assert places.copy(places.first, places.shared).exit_code == 0
    done = places.copy(places.first, places.shared, "--json")
    assert json.loads(done.stdout) == [
        {"uid": uid, "result": "unchanged", "ccaches": 2} for uid in range(1000, 1003)
    ]
    with psycopg.connect(places.conninfo) as connection:
        assert connection.execute("SELECT DISTINCT version FROM pykcm.collections").fetchall() == [(1,)]


def test_other_ccaches_are_never_overwritten(places: Places) -> None:
    """A user with other ccaches in the target is skipped and named; the others are copied; exit status 1."""
    with asyncio.Runner() as runner:
        store: Store = places.open_embedded(places.first)
        runner.run(fill(store, range(1000, 1003), 2))
        store.close()
        store = places.open_shared()
        runner.run(fill(store, range(1001, 1002), 1))
        before = runner.run(contents(store, range(1001, 1002)))
        done = places.copy(places.first, places.shared)
        assert done.exit_code == 1
        assert "skipped: 1001 has other ccaches in the target" in done.output
        assert "copied: 4 ccaches of 2 users" in done.output
        assert runner.run(contents(store, range(1001, 1002))) == before
        store.close()


def test_user_with_a_damaged_ccache_is_left_out(places: Places) -> None:
    """A user with a row that cannot be unsealed is named and not copied; the others are; exit status 1."""
    with asyncio.Runner() as runner:
        store: Store = places.open_shared()
        runner.run(fill(store, range(1000, 1003), 2))
        with psycopg.connect(places.conninfo) as connection:
            connection.execute(
                "UPDATE pykcm.secrets SET sealed = 'x' WHERE uid = 1001 AND expires = 2000000001"
            )
        done = places.copy(places.shared, places.second)
        assert done.exit_code == 1
        assert "damaged: 1001 has a ccache in the source that cannot be read" in done.output
        assert "copied: 4 ccaches of 2 users" in done.output
        assert "damaged: 2 ccaches of 1 users" in done.output
        store.close()
        store = places.open_embedded(places.second)
        assert runner.run(store.uids()) == [1000, 1002]
        store.close()


@pytest.mark.parametrize("outcome", [Refused, Unknown])
async def test_interrupted_copy_goes_on(
    outcome: type[Refused | Unknown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UID is copied as a whole or not at all; the next copy does only what is missing."""
    monkeypatch.setattr(moving, "_UIDS", 1)
    source, target = MemoryStore(), FailingStore(outcome)
    users = range(1000, 1005)
    await fill(source, users, 2)
    moved: list[Moved] = []

    async def copy() -> None:
        async for each in copy_secrets(source, target, users):
            moved.append(each)  # noqa: PERF401 - it raises

    with pytest.raises(StoreError):
        await copy()
    assert [(each.uid, each.result.value) for each in moved] == [(1000, "copied"), (1001, "copied")]
    assert await target.count_ccaches() == 4
    target.left = 1000
    results = [each.result.value async for each in copy_secrets(source, target, users)]
    assert results == ["unchanged"] * 2 + ["copied"] * 3
    assert await contents(target, users) == await contents(source, users)


class FailingStore(MemoryStore):
    """Fails after two commits."""

    def __init__(self, outcome: type[Refused | Unknown]) -> None:
        super().__init__()
        self._outcome = outcome
        self.left = 2

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        self.left -= 1
        if self.left >= 0:
            return await super().commit(entries)
        return [self._outcome(StoreError("it ends here"))]


def test_running_daemon_is_not_disturbed(places: Places) -> None:
    """While a daemon has the state folder, nothing is copied, and the message says who has it."""
    from pykcm.store.folder import StateFolder

    places.open_embedded(places.first).close()
    folder = StateFolder(places.first.with_suffix(""))
    done = places.copy(places.first, places.shared)
    assert (done.exit_code, "has this state folder; stop it first" in done.output) == (1, True)
    folder.close()


def test_missing_source_is_not_made(places: Places) -> None:
    """A source without a database is an error, and stays without one."""
    done = places.copy(places.first, places.shared)
    assert (done.exit_code, "there is no database to copy" in done.output) == (1, True)
    assert not (places.first.with_suffix("") / "pykcm.db").exists()


def test_one_state_folder_may_serve_both(places: Places) -> None:
    """A host that changes its store keeps its state folder and its key file."""
    with asyncio.Runner() as runner:
        store = places.open_embedded(places.first)
        runner.run(fill(store, range(1000, 1001), 1))
        store.close()
    text = places.shared.read_text().replace(
        str(places.shared.with_suffix("")), str(places.first.with_suffix(""))
    )
    places.shared.write_text(text)
    done = places.copy(places.first, places.shared)
    assert (done.exit_code, "copied: 1 ccaches of 1 users" in done.output) == (0, True), done.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_copies_as_the_owner(places: Places) -> None:
    """Root's copy runs as the owner of the state folders, so that the daemon can use the files."""
    configs = [load_config(places.shared), load_config(places.second)]
    os.chown(places.second.with_suffix(""), 65534, 65534)
    with pytest.raises(StoreUnusableError, match="different users"):
        become_owner(configs)
    os.chown(places.shared.with_suffix(""), 65534, 65534)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            become_owner(configs)
        os._exit(int((os.getuid(), os.getgid(), os.getgroups()) != (65534, 65534, [])))
    assert os.waitpid(child, 0)[1] == 0
