"""Folders of root and of a user."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.owned import USER, folder


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder of root that everyone may enter."""
    path = Path(tempfile.mkdtemp(prefix="pykcm-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def users(top: Path) -> Path:
    """A folder of a user in `top`."""
    return folder(top / "user", USER)
