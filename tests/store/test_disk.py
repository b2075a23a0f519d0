"""The reasons for which a disk refuses writes."""

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

from pykcm.store.disk import why_refused


def test_full_disk_is_enospc(full_disk: Path) -> None:
    """A disk without room is ENOSPC."""
    assert why_refused(full_disk) == errno.ENOSPC


def test_read_only_disk_is_erofs(mount_disk: Callable[[int], Path]) -> None:
    """A disk that is mounted read-only is EROFS."""
    disk = mount_disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert why_refused(disk) == errno.EROFS


def test_disk_that_accepts_writes_again_is_eio(tmp_path: Path) -> None:
    """A disk that accepts a write again is EIO, and no file is left."""
    assert why_refused(tmp_path) == errno.EIO
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_eio(tmp_path: Path) -> None:
    """A missing folder is EIO."""
    assert why_refused(tmp_path / "gone") == errno.EIO
