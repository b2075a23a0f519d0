"""Folders in memory, file systems that are full, and checkpoints that wait until a test lets them run."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.sqlcipher.copying import Copying


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory: each sync of a disk takes milliseconds."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pykcm-", dir=memory) as folder:
        path = Path(folder, "tmp")
        path.mkdir()
        yield path


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a private file system of this many KiB; skips the test if that is impossible."""
    disk = tmp_path / "disk"

    def mount(kib: int) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "tmpfs", str(disk)]
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("only root can mount")
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def full_disk(mount_disk: Callable[[int], Path]) -> Path:
    """A file system with no room for another byte."""
    disk = mount_disk(4)
    (disk / "ballast").write_bytes(bytes(4096))
    return disk


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> Copying:
    """Checkpoints of even a short write-ahead log run in another thread, when the test lets them."""
    copying = Copying()
    monkeypatch.setattr("pykcm.store.sqlcipher.wal._COPIED_AT_ONCE", 0)
    monkeypatch.setattr("pykcm.store.sqlcipher.wal.copy_wal", copying.copy)
    return copying
