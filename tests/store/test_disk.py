"""What the disk says when it is asked why it refuses."""

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

from pykcm.store.disk import why_refused


def test_a_full_disk(full_disk: Path) -> None:
    """A disk without room says ENOSPC."""
    assert why_refused(full_disk) == errno.ENOSPC


def test_a_read_only_disk(mount_disk: Callable[[int], Path]) -> None:
    """A disk that is mounted read-only says EROFS."""
    disk = mount_disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert why_refused(disk) == errno.EROFS


def test_a_disk_that_has_recovered(tmp_path: Path) -> None:
    """A disk that takes a write again says nothing better than EIO, and no file is left."""
    assert why_refused(tmp_path) == errno.EIO
    assert list(tmp_path.iterdir()) == []


def test_no_disk(tmp_path: Path) -> None:
    """A folder that is gone is EIO, too."""
    assert why_refused(tmp_path / "gone") == errno.EIO
