"""Folders of root's and of a user's."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.owned import USER, folder


@pytest.fixture
def top() -> Iterator[Path]:
    """Root's folder, which everyone may enter."""
    path = Path(tempfile.mkdtemp(prefix="pykcm-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def users(top: Path) -> Path:
    """A user's own folder in it."""
    return folder(top / "user", USER)
