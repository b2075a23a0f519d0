"""A folder of a user's."""

from pathlib import Path

import pytest

from tests.admin.cli.owned import USER, folder


@pytest.fixture
def users(top: Path) -> Path:
    """A user's own folder in it."""
    return folder(top / "user", USER)
