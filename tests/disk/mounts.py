"""Real file systems that fill up or fail, for tests that run as root."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

_KIB = 1024

# The part of the disk with ext4's own data, in KiB. The rest takes memory only when it is written.
_METADATA = 4096


class SmallDisk(Protocol):
    """A disk that can be filled. `folder`: the mount point; `refusals`: the errnos of a full disk."""

    folder: Path
    refusals: set[int]

    def fill(self, leave: int) -> None:
        """Fill the disk, except for this many KiB."""

    def free(self) -> None:
        """Free the space again."""


class MemoryDisk:
    """A tmpfs of 1 MiB, or another size."""

    def __init__(self, folder: Path, size: str = "1m") -> None:
        self.folder = folder
        self.refusals = {errno.ENOSPC}
        self._ballast = folder / "ballast"
        _mount("-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder))

    def fill(self, leave: int) -> None:
        _fill(self._ballast, leave)

    def free(self) -> None:
        self._ballast.unlink()


class ThinDisk:
    """An ext4 larger than the memory behind it.

    When the memory is full, writes still succeed, because they are cached, and the sync fails. The image
    then proves nothing: a loop device treats a short write as complete.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        # The errno depends on the space that is left when the daemon asks for the cause.
        self.refusals = {errno.ENOSPC, errno.EIO}
        self._options = ",".join(("loop", *options))
        self._behind = folder.with_name("behind")
        self._behind.mkdir()
        self._image = self._behind / "image"
        _mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(self._behind))
        self._image.write_bytes(bytes(_METADATA * _KIB))
        os.truncate(self._image, 32 * _KIB * _KIB)
        features = ["-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=0", "-b", "4096"]
        _run("mkfs.ext4", "-q", *features, str(self._image))
        self._mount()

    def fill(self, leave: int) -> None:
        os.sync()
        _fill(self._behind / "ballast", leave)

    def free(self) -> None:
        (self._behind / "ballast").unlink()

    def mount_again(self) -> None:
        """Drop the page cache, so that only the data on the disk counts. No file may be open."""
        _run("umount", str(self.folder))
        self._mount()

    def fail(self) -> None:
        """Let ext4 find an error and react as its mount options say."""
        device = subprocess.check_output(["findmnt", "-no", "SOURCE", self.folder], text=True).strip()
        trigger = Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel's ext4 does not fail on demand")
        trigger.write_text("1")

    def _mount(self) -> None:
        _mount("-o", self._options, str(self._image), str(self.folder))


@contextmanager
def mount_point(folder: Path) -> Iterator[Path]:
    """A new folder for a mount. At the end, its file systems are unmounted."""
    folder.mkdir()
    try:
        yield folder
    finally:
        for mounted in (folder, folder.with_name("behind")):
            if mounted.is_mount():
                _run("umount", "--lazy", str(mounted))


def _fill(ballast: Path, leave: int) -> None:
    status = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave * _KIB)


def _mount(*arguments: str) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    if subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode:
        pytest.skip("no such file system can be mounted here")


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run(command, check=True, capture_output=True)
