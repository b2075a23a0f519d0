"""A disk whose syncs take long: only users who write wait for them."""

import os
import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from pykcm.protocol.opcodes import Opcode
from tests.builders import ALICE, credential_bytes, principal_bytes, service
from tests.disk.faults import Call, Faults

from .conftest import OTHER, USER
from .control import Pykcmctl
from .daemon import Pykcmd
from .raw import RawConnection, request
from .waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several UIDs")

# UIDs whose collections are first read during a sync.
UNREAD = range(20010, 20030)
CREDENTIALS = [credential_bytes(service(number)) for number in range(3)]

# Reads of a collection that is in memory, during one sync.
READS = 200


def named(uid: int) -> bytes:
    return b"%d\0" % uid


def replace(uid: int, credentials: list[bytes]) -> bytes:
    """A REPLACE request of the UID's ccache."""
    count = len(credentials).to_bytes(4)
    blobs = b"".join(len(blob).to_bytes(4) + blob for blob in credentials)
    return request(Opcode.REPLACE, named(uid) + bytes(4) + principal_bytes(ALICE) + count + blobs)


def store(number: int) -> bytes:
    """A STORE request of a credential that is new."""
    return request(Opcode.STORE, named(USER) + credential_bytes(service(number + len(CREDENTIALS))))


SMALL = store(0)
LARGE = replace(USER, [credential_bytes(service(number), ticket=bytes(8000)) for number in range(400)])


class SlowDisk:
    """A daemon whose syncs can be held, and connections of users who read."""

    def __init__(self, daemon: Pykcmd, library: Path) -> None:
        self.daemon = daemon
        self.faults = Faults(library, daemon.state_dir, daemon.folder / "faults")
        self._connections = ExitStack()
        self._reader: RawConnection | None = None
        self._unread = iter(UNREAD)

    def start(self, durability: str) -> None:
        """Every UID has a ccache, of which only OTHER's is in memory."""
        self.daemon.configure(f'durability = "{durability}"\n')
        self.daemon.start()
        for uid in (USER, OTHER, *UNREAD):
            with self.connect(uid) as client:
                client.send(replace(uid, CREDENTIALS))
                assert client.reply() == (0, b"")
        assert self.daemon.stop() == 0
        self.daemon.start_settled(environment=self.faults.environment)
        self._reader = self._connections.enter_context(self.connect(OTHER))
        self.read(self._reader, OTHER)

    def connect(self, uid: int) -> RawConnection:
        return RawConnection(self.daemon.socket_path, uid)

    def read(self, client: RawConnection, uid: int) -> None:
        client.send(request(Opcode.GET_CRED_LIST, named(uid)))
        code, credentials = client.reply()
        assert code == 0
        assert all(blob in credentials for blob in CREDENTIALS)

    def read_all(self) -> None:
        """Read a collection in memory over an open connection, and another one over a new connection."""
        assert self._reader is not None
        for _ in range(READS):
            self.read(self._reader, OTHER)
        uid = next(self._unread)
        with self.connect(uid) as client:
            self.read(client, uid)

    def read_until_all_syncs_are_done(self, has_ended: Callable[[], bool]) -> int:
        """Let the daemon do one sync after the other, and read during each; returns the number of syncs.

        `has_ended`: whether the writer has its answer.
        """
        syncs = 0
        while True:
            wait_until(lambda: self.faults.delayed(Call.SYNC)[1] or has_ended())
            calls, waiting = self.faults.delayed(Call.SYNC)
            if not waiting:
                return syncs
            syncs += 1
            self.read_all()
            # All was answered during this one sync.
            assert self.faults.delayed(Call.SYNC) == (calls, 1)
            assert not has_ended()
            self.faults.let_one_go(Call.SYNC)

    def end(self) -> None:
        self._connections.close()
        self.faults.let_go(Call.SYNC)


def has_reply(client: RawConnection) -> bool:
    return bool(select.select([client._socket], [], [], 0)[0])


@pytest.fixture
def disk(stopped_pykcmd: Pykcmd, faults_library: Path) -> Iterator[SlowDisk]:
    disk = SlowDisk(stopped_pykcmd, faults_library)
    yield disk
    disk.end()


@pytest.mark.parametrize(
    ("durability", "change", "syncs"),
    # Where the write-ahead log becomes long, it is copied into the database: its sync and the database's.
    [("full", SMALL, 1), ("full", LARGE, 3), ("normal", LARGE, 2)],
    ids=["full-small", "full-large", "normal-large"],
)
def test_others_read_during_each_sync_of_a_change(
    disk: SlowDisk, durability: str, change: bytes, syncs: int
) -> None:
    """While a change waits for a sync, other users' reads are answered, in memory or not."""
    disk.start(durability)
    disk.faults.hold(Call.SYNC)
    with disk.connect(USER) as writer:
        writer.send(change)
        assert disk.read_until_all_syncs_are_done(partial(has_reply, writer)) >= syncs
        assert writer.reply()[0] == 0


def test_others_read_during_each_sync_of_a_fast_disk_that_becomes_slow(disk: SlowDisk) -> None:
    """All users wait for at most two changes on such a disk; then the daemon treats it as slow."""
    disk.start("full")
    with disk.connect(USER) as writer:
        for number in range(1, 43):
            if number == 41:
                disk.faults.slow_down(Call.SYNC, 0.01)
            writer.send(store(number))
            assert writer.reply()[0] == 0
        disk.faults.hold(Call.SYNC)
        writer.send(SMALL)
        assert disk.read_until_all_syncs_are_done(partial(has_reply, writer)) == 1
        assert writer.reply()[0] == 0


def test_others_read_during_each_sync_of_a_backup(disk: SlowDisk) -> None:
    """Nobody who reads waits for a backup, its begin, its syncs or its end."""
    disk.start("full")
    with disk.connect(USER) as writer:
        writer.send(LARGE)
        assert writer.reply()[0] == 0
        disk.faults.hold(Call.SYNC)
        ctl = Pykcmctl(disk.daemon.control_path)
        with ThreadPoolExecutor() as pool:
            backup = pool.submit(ctl.ok, "backup", str(disk.daemon.folder / "copy"))
            syncs = disk.read_until_all_syncs_are_done(backup.done)
            backup.result()
        assert syncs
