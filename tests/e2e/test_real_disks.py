"""Real file systems under the running daemon: full, overcommitted, and failing ones."""

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from tests.builders import ALICE, credential_bytes, service
from tests.disk.mounts import MemoryDisk, SmallDisk, ThinDisk, mount_point

from .conftest import OTHER, USER
from .crashes import code_of, contents_of, look_into
from .daemon import Pykcmd

NAME = b"%d:used" % USER
UNREAD = b"%d:unread" % OTHER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def numbered(number: int) -> bytes:
    return credential_bytes(service(number), ticket=bytes(3000))


@pytest.fixture
def mount_at(folder: Path) -> Iterator[Path]:
    """A folder for a mount."""
    with mount_point(folder / "disk") as place:
        yield place


def on(disk: SmallDisk, daemon: Pykcmd) -> Pykcmd:
    """The daemon with its state on this disk, started, with two ccaches that are not all in memory."""
    daemon.state_dir = disk.folder / "state"
    daemon.start()
    with KcmClient(daemon.socket_path) as kcm:
        for name in (NAME, UNREAD):
            kcm.replace(name, 0, ALICE, [numbered(0)])
    daemon.restart()
    return daemon


@pytest.mark.parametrize("kind", [MemoryDisk, ThinDisk])
def test_full_disk_refuses_changes_only(
    mount_at: Path, stopped_pykcmd: Pykcmd, kind: Callable[[Path], SmallDisk]
) -> None:
    """Reads continue, and with free space changes work again; nothing is lost."""
    disk = kind(mount_at)
    daemon = on(disk, stopped_pykcmd)
    stored = [numbered(0)]
    with KcmClient(daemon.socket_path) as kcm:
        for leave in (150, 0, 70):
            disk.fill(leave)
            store_until_refused(kcm, stored, disk.refusals)
            disk.free()
            stored.append(numbered(len(stored)))
            kcm.store(NAME, stored[-1])
            assert contents_of(kcm, NAME) == tuple(stored)
        disk.fill(0)
        store_until_refused(kcm, stored, disk.refusals)
    daemon.kill()
    # The disk is still full when the next daemon starts.
    daemon.start()
    with KcmClient(daemon.socket_path) as kcm:
        assert contents_of(kcm, NAME) == tuple(stored)
        store_until_refused(kcm, stored, disk.refusals)
    daemon.kill()
    disk.free()
    look_into(daemon)
    daemon.start()
    with KcmClient(daemon.socket_path) as kcm:
        assert contents_of(kcm, NAME) == tuple(stored)
        assert contents_of(kcm, UNREAD) == (numbered(0),)


def store_until_refused(kcm: KcmClient, stored: list[bytes], refusals: set[int]) -> None:
    """Store until even small changes are refused."""
    refused = 0
    while refused < 3:
        blob = numbered(len(stored))
        code = code_of(partial(kcm.store, NAME, blob))
        if code == 0:
            stored.append(blob)
        else:
            assert code in refusals
            refused += 1
        assert contents_of(kcm, NAME) == tuple(stored)
    assert contents_of(kcm, UNREAD) == (numbered(0),)


def test_read_only_disk_refuses_changes_only(mount_at: Path, stopped_pykcmd: Pykcmd) -> None:
    """When ext4 has found an error, changes answer EROFS; mounted again, nothing is missing."""
    disk = ThinDisk(mount_at, "errors=remount-ro")
    daemon = on(disk, stopped_pykcmd)
    with KcmClient(daemon.socket_path) as kcm:
        kcm.store(NAME, numbered(1))
        disk.fail()
        for _ in range(3):
            with pytest.raises(KcmError) as caught:
                kcm.store(NAME, numbered(2))
            assert caught.value.code == errno.EROFS
            assert contents_of(kcm, NAME) == (numbered(0), numbered(1))
            assert contents_of(kcm, UNREAD) == (numbered(0),)
    daemon.kill()
    disk.mount_again()
    daemon.start()
    with KcmClient(daemon.socket_path) as kcm:
        assert contents_of(kcm, NAME) == (numbered(0), numbered(1))
        assert contents_of(kcm, UNREAD) == (numbered(0),)
        kcm.store(NAME, numbered(2))
