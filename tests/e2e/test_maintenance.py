"""backup and rekey of a busy daemon."""

import itertools
import json
import os
import random
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pykcm.cli.client import ControlClient
from pykcm.client import KcmClient
from pykcm.store.disk import CREDENTIAL
from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, TGS, credential_bytes, service
from tests.disk.faults import Call, Faults
from tests.disk.history import Contents

from .conftest import OTHER, USER, watched
from .control import Pykcmctl
from .crashes import Crashes, contents_of, look_into
from .daemon import Pykcmd, effective_uid
from .test_pykcmctl import on_a_terminal
from .waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may use the control socket")

OWNERS = (USER, USER, OTHER, 0)
NAMES = {b"%d:written%d" % (owner, index): owner for index, owner in enumerate(OWNERS)}
SEED = 20261121

# Of a user that changes nothing meanwhile: enough for a backup of several pieces.
STILL = 20003
MANY = 1000


@pytest.fixture
def ctl(stopped_pykcmd: Pykcmd) -> Pykcmctl:
    return Pykcmctl(stopped_pykcmd.control_path)


@pytest.fixture
def crashes(stopped_pykcmd: Pykcmd, faults_library: Path) -> Crashes:
    """A running daemon, with many tickets of a user who changes nothing during the test."""
    faults = Faults(faults_library, stopped_pykcmd.state_dir, stopped_pykcmd.folder / "faults")
    crashes = Crashes(stopped_pykcmd, faults, NAMES, random.Random(SEED))
    crashes.start()
    with effective_uid(STILL), KcmClient(stopped_pykcmd.socket_path) as kcm:
        kcm.replace(b"%d" % STILL, 0, ALICE, still_blobs())
    return crashes


def still_blobs() -> tuple[bytes, ...]:
    return tuple(credential_bytes(service(number), ticket=b"ticket" * 200) for number in range(MANY))


def contents(daemon: Pykcmd, owner: int, name: bytes) -> Contents:
    with effective_uid(owner), KcmClient(daemon.socket_path) as kcm:
        return contents_of(kcm, name)


def files(daemon: Pykcmd) -> set[str]:
    return {path.name for path in daemon.state_dir.iterdir()} - {"lock", "clock", "clock.new", "pykcm.db-wal"}


def key_opens(daemon: Pykcmd, raw: bytes) -> bool:
    """Whether this key opens the database of the stopped daemon."""
    try:
        SQLCipherStore(daemon.state_dir / "pykcm.db", Key(raw, Path("some"))).close()
    except StoreUnusableError:
        return False
    return True


def key(daemon: Pykcmd) -> bytes:
    return (daemon.state_dir / "key").read_bytes()


def test_backup_under_load_is_consistent(crashes: Crashes, ctl: Pykcmctl, folder: Path) -> None:
    """A copy made under load and restored by the document's commands has every ccache as of one moment."""
    daemon = crashes.daemon
    copies = []
    writers = crashes.write()
    for number in range(3):
        copies.append(folder / f"copy{number}")
        said = ctl.json("backup", str(copies[-1]))
        assert said["size"] == copies[-1].stat().st_size
        assert said["key"] == str(daemon.state_dir / "key")
    daemon.kill()
    crashes.end(writers)
    crashes.start()
    crashes.check()
    assert crashes.acknowledged
    assert not crashes.refusals
    daemon.stop()
    for copy in copies:
        for database in daemon.state_dir.glob("pykcm.db*"):
            database.unlink()
        shutil.copy(copy, daemon.state_dir / "pykcm.db")
        daemon.start()
        assert contents(daemon, STILL, b"%d" % STILL) == still_blobs()
        for name, owner in NAMES.items():
            assert contents(daemon, owner, name) in crashes.histories[name].earlier
        assert daemon.stop() == 0


def test_rekey_under_load_loses_nothing(crashes: Crashes, ctl: Pykcmctl) -> None:
    """The key is changed repeatedly, and no acknowledged change is lost."""
    daemon = crashes.daemon
    keys = [key(daemon)]
    writers = crashes.write()
    for _ in range(3):
        said = ctl.json("rekey")
        assert (said["pending"], said["key"]) == (False, str(daemon.state_dir / "key"))
        keys.append(key(daemon))
    daemon.kill()
    crashes.end(writers)
    look_into(daemon)
    crashes.start()
    crashes.check()
    assert contents(daemon, STILL, b"%d" % STILL) == still_blobs()
    assert not crashes.refusals
    daemon.stop()
    assert files(daemon) == {"key", "pykcm.db"}
    assert [key_opens(daemon, raw) for raw in keys] == [False, False, False, True]


def connected(daemon: Pykcmd, uid: int) -> KcmClient:
    with effective_uid(uid):
        return KcmClient(daemon.socket_path)


def write_much(kcm: KcmClient, uid: int, has_ended: threading.Event) -> int:
    """Replace a ccache of the UID by another one of 3 MB, repeatedly; returns how often."""
    name = b"%d" % uid
    with kcm:
        for number in itertools.count():
            if has_ended.is_set():
                return number
            kcm.replace(name, 0, ALICE, [credential_bytes(TGS, ticket=random.randbytes(3_000_000))])
    raise AssertionError


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [1, 8])
def test_busy_users_wait_and_are_named(crashes: Crashes, ctl: Pykcmctl, number: int) -> None:
    """Users who write all the time wait for a backup and a rekey; other users do not wait."""
    daemon = crashes.daemon
    uids = [STILL + 1 + each for each in range(number)]
    has_ended = threading.Event()
    clients = {uid: connected(daemon, uid) for uid in uids}
    with ThreadPoolExecutor(number) as pool, connected(daemon, OTHER) as other:
        answer = ControlClient(ctl.control_path).ask("backup")
        items = iter(answer)
        size = next(items)["size"]
        writing = [pool.submit(write_much, kcm, uid, has_ended) for uid, kcm in clients.items()]
        try:
            # The output is not read until a user has written so much that the copy would fail.
            wait_until(lambda: "writes much while the database is copied" in daemon.log)
            other.initialize(b"%d" % OTHER, ALICE)
            assert other.get_principal(b"%d" % OTHER) == ALICE
            received = list(items)
            assert sum(len(item["data"]) for item in received) == size == answer.summary["size"]
            slowed = {uid for item in received for uid in item.get("slowed", ())}
            assert slowed
            assert slowed <= set(uids)
            # Wait until the write-ahead log that the backup left behind is checkpointed.
            while (said := ctl.run("rekey")).status:
                assert "under way" in said.errors
        finally:
            has_ended.set()
        assert all(each.result() for each in writing)
    assert not crashes.refusals


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("call", "most"), [(Call.WRITE, 900), (Call.SYNC, 60), (Call.OPEN, 25), (Call.UNLINK, 9)]
)
def test_kill_during_maintenance_loses_nothing(
    crashes: Crashes, ctl: Pykcmctl, call: Call, most: int
) -> None:
    """After a kill at any place, the next start has one key and all acknowledged changes."""
    daemon = crashes.daemon
    for _ in range(4):
        writers = crashes.write()
        crashes.faults.kill(call, skip=crashes.rng.randrange(most))
        # The command may have ended before; then the writers hit the fault.
        said = ctl.run("rekey")
        if said.status == 0:
            daemon.kill()
        else:
            assert said.status == 3, said
            assert daemon.wait() == -signal.SIGKILL
        crashes.end(writers)
        crashes.faults.mend()
        crashes.start()
        crashes.check()
        assert contents(daemon, STILL, b"%d" % STILL) == still_blobs()
        assert files(daemon) == {"key", "pykcm.db"}
    assert not crashes.refusals
    daemon.stop()
    assert key_opens(daemon, key(daemon))


def test_backup_file_is_private_and_complete(crashes: Crashes, ctl: Pykcmctl, folder: Path) -> None:
    """It is not replaced without --force, and no other file is left."""
    place = folder / "copies"
    place.mkdir()
    copy = place / "copy"
    said = ctl.run("backup", str(copy))
    assert said.status == 0
    assert said.output == ""
    assert "The backup does not contain the key" in said.errors
    assert copy.stat().st_mode & 0o777 == 0o600
    before = copy.read_bytes()
    again = ctl.run("backup", str(copy))
    assert again.status == 1
    assert "--force" in again.errors
    assert copy.read_bytes() == before
    with effective_uid(USER), KcmClient(crashes.daemon.socket_path) as kcm:
        kcm.initialize(b"%d" % USER, ALICE)
    ctl.ok("backup", "--force", str(copy))
    assert copy.read_bytes() != before
    assert [path.name for path in place.iterdir()] == ["copy"]
    assert ctl.run("backup", str(folder / "missing" / "copy")).status == 1


def test_abandoned_backup_can_be_repeated(crashes: Crashes, ctl: Pykcmctl, folder: Path) -> None:
    """A second backup is refused while one runs; when the client has gone, the next one begins."""
    place = folder / "copies"
    place.mkdir()
    answer = ControlClient(ctl.control_path).ask("backup")
    items = iter(answer)
    assert next(items)["size"]
    busy = ctl.run("rekey")
    assert busy.status == 1
    assert "under way" in busy.errors
    answer.close()
    # Wait until the daemon has noticed that the client has gone.
    while (said := ctl.run("backup", str(place / "copy"))).status:
        assert "under way" in said.errors
    assert [path.name for path in place.iterdir()] == ["copy"]


def test_progress_is_shown_on_terminal(crashes: Crashes, ctl: Pykcmctl, folder: Path) -> None:
    status, screen = on_a_terminal(ctl, "backup", str(folder / "copy"))
    assert status == 0, screen
    assert "Copying" in screen
    assert "100%" in screen
    status, screen = on_a_terminal(ctl, "rekey")
    assert status == 0, screen
    assert "The database has a new key" in screen


def test_memory_store_refuses_backup_and_rekey(folder: Path) -> None:
    """The message gives the reason."""
    with watched(Pykcmd(folder, store="memory")) as daemon:
        daemon.start()
        ctl = Pykcmctl(daemon.control_path)
        for arguments in (["backup", str(folder / "copy")], ["rekey"]):
            said = ctl.run(*arguments)
            assert said.status == 1
            assert "only in memory" in said.errors
        assert not (folder / "copy").exists()


def test_rekey_of_credential_needs_new_key(stopped_pykcmd: Pykcmd, ctl: Pykcmctl, folder: Path) -> None:
    """Root gives the new key and is told where to put it; until then, both keys work."""
    daemon = stopped_pykcmd
    credential = folder / "credentials" / CREDENTIAL
    credential.parent.mkdir()
    old, new = bytes(range(32)), bytes(range(32, 64))
    credential.write_bytes(old)
    environment = {"CREDENTIALS_DIRECTORY": str(credential.parent)}
    new_key = folder / "new.key"
    new_key.write_bytes(new)
    daemon.start(environment=environment)
    with effective_uid(USER), KcmClient(daemon.socket_path) as kcm:
        kcm.replace(b"%d" % USER, 0, ALICE, still_blobs()[:3])
    refused = ctl.run("rekey")
    assert refused.status == 1
    assert "pykcmctl rekey --new-key" in refused.errors
    new_key.chmod(0o644)
    assert "chmod 0600" in ctl.run("rekey", "--new-key", str(new_key)).errors
    new_key.chmod(0o600)
    said = ctl.run("rekey", "--new-key", str(new_key))
    assert said.status == 0
    assert f"systemd-creds encrypt --name=pykcm.key {new_key}" in said.errors
    assert new.hex() not in daemon.log
    assert "the new key that was given to the last rekey" in ctl.run("backup", str(folder / "copy")).errors
    for raw in (old, new, new):
        daemon.kill()
        credential.write_bytes(raw)
        daemon.start(environment=environment)
        assert contents(daemon, USER, b"%d" % USER) == still_blobs()[:3]
        assert files(daemon) == {"pykcm.db", *(["key.next"] if raw == old else [])}
    daemon.stop()
    assert (key_opens(daemon, old), key_opens(daemon, new)) == (False, True)


def test_json_of_backup_and_rekey(crashes: Crashes, ctl: Pykcmctl, folder: Path) -> None:
    """--json prints all results, and never the key."""
    copied = json.loads(ctl.ok("backup", str(folder / "copy"), "--json"))
    assert list(copied) == ["file", "size", "sha256", "key"]
    changed = ctl.json("rekey")
    assert list(changed) == ["key", "place", "credential", "pending", "pause"]
