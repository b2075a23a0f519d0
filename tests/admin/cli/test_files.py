"""Files with secrets, on file systems that do not have all that others have."""

import errno
import os
import sys
from pathlib import Path

import pytest

from pykcm.admin.cli import files


@pytest.fixture
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("_no_links")
def test_a_disk_without_links(tmp_path: Path) -> None:
    """vfat, for one."""
    target = tmp_path / "tickets"
    with files.written(str(target), force=False) as file:
        file.write(b"all")
    assert target.read_bytes() == b"all"
    assert os.listdir(tmp_path) == ["tickets"]  # noqa: PTH208


@pytest.mark.usefixtures("_no_links")
def test_nobodys_place_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of a file that came at the last moment."""
    target = tmp_path / "tickets"
    target.write_bytes(b"another's")
    monkeypatch.setattr(files, "_check_free", lambda *_, **__: None)
    with pytest.raises(FileExistsError), files.written(str(target), force=False) as file:
        file.write(b"all")
    assert target.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["tickets"]  # noqa: PTH208


def test_stdout_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and nothing is written to what happens to have its number."""
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(files.FileError, match="stdout is closed"), files.written("-", force=False):
        pass
