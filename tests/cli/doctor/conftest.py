"""A fake machine for each test."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """An empty machine. Its paths are short enough for sockets, and everyone may enter them."""
    root = Path(tempfile.mkdtemp(prefix="pykcm-", dir="/tmp"))
    root.chmod(0o755)
    machine = Machine(root)
    try:
        with machine.at_end:
            yield machine
    finally:
        shutil.rmtree(root)
