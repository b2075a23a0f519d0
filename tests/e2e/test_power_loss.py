"""Loss of power, simulated from a record of all writes, syncs and answers of the daemon."""

import asyncio
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from pykcm.ccaches.quotas import NO_LIMITS
from pykcm.client import KcmClient
from pykcm.engine.collection_cache import CollectionCache
from pykcm.store.keys import load_key
from pykcm.store.sqlcipher.database import has_tickets
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.sqlcipher.wal import _EXTENDED_BY
from pykcm.store.tree import Put, uid_container
from tests.disk.history import Contents
from tests.disk.numbered import Change, changes
from tests.disk.power import Choice, newest, oldest, torn
from tests.disk.record import Event, Written, read_record, strace, wait_for
from tests.disk.replay import Replay
from tests.storing import commit_changes

from .conftest import public_folder, watched
from .daemon import Pykcmd

SEED = 20261121
CHANGES = 70  # for each client, before a kill and again after it
CUTS = 60  # of each kind
FIRST_START = 80  # events, each of which is followed by a cut

# Root creates the ccaches of other users, so that their changes are concurrent.
OWNERS = (20001, 20002, 20003) if os.geteuid() == 0 else (os.geteuid(),) * 3
NAMES = {b"%d:written%d" % (owner, index): owner for index, owner in enumerate(OWNERS)}


def change_all(daemon: Pykcmd, streams: dict[bytes, Iterator[Change]]) -> None:
    """Three concurrent clients, each of which changes its own ccache."""
    failures = []

    def change(name: bytes, stream: Iterator[Change]) -> None:
        try:
            with KcmClient(daemon.socket_path) as kcm:
                for one in islice(stream, CHANGES):
                    one.send(kcm, name, NAMES[name])
        except Exception as error:  # noqa: BLE001 - raised again in the test's thread
            failures.append(error)

    threads = [threading.Thread(target=change, args=item) for item in streams.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    # A kill can keep strace from recording the last answer. After one more, it has recorded those before.
    with KcmClient(daemon.socket_path) as kcm:
        kcm.get_default_cache()


@pytest.fixture(scope="module", params=["full", "normal"])
def recorded(request: pytest.FixtureRequest) -> tuple[str, list[list[Event]]]:
    """The durability, and the events of a first start that is killed and of a second one."""
    streams = {name: changes(SEED + index, 0, is_there=False) for index, name in enumerate(NAMES)}
    events = []
    with public_folder() as folder, watched(Pykcmd(folder)) as daemon:
        daemon.configure(f'durability = "{request.param}"\n')
        for end in (daemon.kill, daemon.stop):
            record = folder / "record"
            daemon.start("--log-level", "info", wrapper=strace(record))
            change_all(daemon, streams)
            end()
            wait_for(record)
            events.append(list(read_record(record, daemon.state_dir)))
    return request.param, events


def replayed(events: list[list[Event]]) -> Iterator[tuple[int, Replay]]:
    """The record, event by event, with the number of each."""
    replay = Replay(list(NAMES))
    number = 0
    for process in events:
        for event in process:
            replay.apply(event)
            number += 1
            yield number, replay
        replay.killed()


def test_no_reply_before_its_sync(recorded: tuple[str, list[list[Event]]]) -> None:
    """With full durability, and only then, a change is synced completely before it is answered."""
    durability, events = recorded
    *_, (_, replay) = replayed(events)
    assert replay.answered == 2 * CHANGES * len(NAMES)
    if durability == "full":
        assert replay.early == 0
    else:
        assert replay.early > CHANGES


def test_wal_is_extended_in_the_record(recorded: tuple[str, list[list[Event]]]) -> None:
    """With full durability the first process extends the write-ahead log: power is cut meanwhile too."""
    durability, (first, _) = recorded
    zeros = [event for event in first if isinstance(event, Written) and not any(event.data)]
    assert any(len(event.data) == _EXTENDED_BY for event in zeros) == (durability == "full")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, for speed."""
    folder = tempfile.mkdtemp(prefix="pykcm-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)


def test_power_cut_leaves_a_sound_database(recorded: tuple[str, list[list[Event]]], memory: Path) -> None:
    """After a loss of power at any moment the database is sound, whichever unsynced writes the disk keeps.

    With full durability it has all acknowledged changes; with normal durability each ccache is as it was at
    some time.
    """
    durability, events = recorded
    cuts = choose_cuts(events)
    for number, replay in replayed(events):
        if number not in cuts:
            continue
        for choose in (oldest, newest, torn(SEED + number)):
            found = contents_after(replay, memory / "state", choose)
            for name, history in replay.histories.items():
                allowed = [*history.possible, *([] if durability == "full" else history.earlier)]
                assert found[name] in allowed, f"{name!r}: cut {number}, {choose}, seed {SEED}"


def choose_cuts(events: list[list[Event]]) -> set[int]:
    """All events of the first start, and some later ones, many of them during a checkpoint."""
    ordinary: list[int] = []
    copying: list[int] = []
    for number, replay in replayed(events):
        (copying if replay.disk.is_being_written("pykcm.db") else ordinary).append(number)
    rng = random.Random(SEED)
    return {*range(1, FIRST_START), *rng.sample(ordinary, CUTS), *rng.sample(copying, CUTS)}


def contents_after(replay: Replay, folder: Path, choose: Choice) -> dict[bytes, Contents]:
    """The contents that the next start finds; the database must be sound and accept a change."""
    replay.disk.write_left(folder, choose)
    path = folder / "pykcm.db"
    store = SQLCipherStore(path, load_key(folder / "key", may_create=not has_tickets(path)), "normal")
    try:
        contents = asyncio.run(read_all(store))
        asyncio.run(commit_changes(store, [Put(uid_container(4711), "another", b"value")]))
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store._db.execute("PRAGMA cipher_integrity_check").fetchall() == []
    finally:
        store.close()
        shutil.rmtree(folder)
    return contents


async def read_all(store: SQLCipherStore) -> dict[bytes, Contents]:
    collection_cache = CollectionCache(store, NO_LIMITS)
    contents: dict[bytes, Contents] = {}
    for name, owner in NAMES.items():
        collection = await collection_cache.get(owner)
        assert not collection.unavailable
        ccache = collection.get(name)
        contents[name] = None if ccache is None else tuple(each.blob for each in ccache.credentials)
    return contents
