"""Databases that earlier versions made, kept in `kept/`: this version reads them, and goes on writing."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykcm.protocol.tag import Tag
from pykcm.store.keys import load_key
from pykcm.store.sqlcipher.rekey import rekey
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, BOB, HTTP, TGS, credential_bytes
from tests.server.asking import Server
from tests.store.sqlcipher.kept.contents import USERS, KeptCCache, KeptUser

KEPT = Path(__file__).parent / "kept"
NAMES = sorted(path.name for path in KEPT.iterdir() if (path / "pykcm.db").exists())

Open = Callable[[], Server]


@pytest.fixture(params=NAMES)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a kept database with its key."""
    folder = tmp_path / "state"
    shutil.copytree(KEPT / request.param, folder)
    # git keeps no other bits of a file's mode than that of execution.
    (folder / "key").chmod(0o600)
    return folder


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def open_server(state: Path, runner: asyncio.Runner) -> Iterator[Open]:
    """A function that opens the copy with this version; at its second call it closes the first server."""
    stores: list[SQLCipherStore] = []

    def open_it() -> Server:
        for store in stores:
            store.close()
        stores[:] = [SQLCipherStore(state / "pykcm.db", load_key(state / "key", may_create=False))]
        return Server(runner, stores[0])

    yield open_it
    for store in stores:
        store.close()


def contents(server: Server, uid: int) -> KeptUser:
    """Everything that a client of this UID sees."""
    asking = server.ask_as(uid)
    names = [asking.get_cache_by_uuid(uuid) for uuid in asking.get_cache_uuid_list()]
    ccaches = {
        name: KeptCCache(asking.get_principal(name), asking.get_cred_list(name), asking.get_kdc_offset(name))
        for name in names
    }
    return KeptUser(ccaches, asking.get_default_cache())


def test_databases_are_kept() -> None:
    """There is one of the first readable layout of 0.1, and one of the last, with a write-ahead log."""
    assert NAMES == ["0.1.0-first", "0.1.0-last"]
    assert not (KEPT / "0.1.0-first" / "pykcm.db-wal").exists()
    assert (KEPT / "0.1.0-last" / "pykcm.db-wal").stat().st_size


def test_every_kept_ccache_is_there(open_server: Open, runner: asyncio.Runner) -> None:
    """Each UID has the same ccaches, credentials, offsets and default ccache as it had stored."""
    server = open_server()
    assert runner.run(server.store.uids()) == sorted(USERS)
    assert {uid: contents(server, uid) for uid in USERS} == USERS
    kept = sum(len(user.ccaches) for user in USERS.values())
    assert runner.run(server.store.count_ccaches()) == kept


def test_kept_database_goes_on(open_server: Open) -> None:
    """Changes to kept ccaches, and new ones, are there after another start; the others are untouched."""
    asking = open_server().ask_as(1000)
    asking.store(b"1000", credential_bytes(HTTP, BOB))
    asking.remove_cred(b"1000", 0, Tag(server=TGS))
    asking.move_cache(b"1000:work", b"1000:moved")
    asking.destroy(b"1000:empty")
    asking.initialize(b"1000:new", BOB)
    asking.store(b"1000:new", credential_bytes(TGS, BOB))
    asking.replace(b"1000:x/y% \xff", 5, ALICE, [credential_bytes(TGS)])
    asking.set_default_cache(b"1000:new")
    asking.set_kdc_offset(b"1000", 0)
    kept = USERS[1000].ccaches
    configuration, _, http, host = kept[b"1000"].credentials
    expected = KeptUser(
        {
            b"1000": KeptCCache(ALICE, [configuration, http, host, credential_bytes(HTTP, BOB)]),
            b"1000:moved": kept[b"1000:work"],
            b"1000:x/y% \xff": KeptCCache(ALICE, [credential_bytes(TGS)], 5),
            b"1000:new": KeptCCache(BOB, [credential_bytes(TGS, BOB)]),
        },
        b"1000:new",
    )
    again = open_server()
    assert contents(again, 1000) == expected
    others = USERS.keys() - {1000}
    assert {uid: contents(again, uid) for uid in others} == {uid: USERS[uid] for uid in others}


def test_kept_database_gets_another_key(state: Path, open_server: Open, runner: asyncio.Runner) -> None:
    """After a rekey, everything is there with the new key."""
    store = open_server().store.inner
    assert isinstance(store, SQLCipherStore)
    before = (state / "key").read_bytes()

    async def change_key() -> None:
        async for _ in rekey(store, None):
            pass

    runner.run(change_key())
    assert (state / "key").read_bytes() != before
    server = open_server()
    assert {uid: contents(server, uid) for uid in USERS} == USERS
