"""Fixtures of the tests of pykcm.testing."""

from pathlib import Path

import pytest

from pykcm.testing.clock import find_libfaketime


@pytest.fixture
def libfaketime() -> str:
    """For tests with another clock."""
    library = find_libfaketime()
    if library is None:
        pytest.skip("libfaketime is missing")
    return library


@pytest.fixture
def long_path(tmp_path: Path) -> Path:
    """A folder with a path that no Unix socket can have, and that KRB5_CONFIG would split."""
    folder = tmp_path / ("long " * 20).strip() / "a:b"
    folder.mkdir(parents=True)
    return folder
