"""Fixtures: a system that setup may change."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.cli.installation import Setup
from tests.cli.setup.systems import PREFIX, Recorder, make_setup


@pytest.fixture
def run() -> Recorder:
    return Recorder()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name).resolve()
        made.chmod(0o711)
        yield made


@pytest.fixture
def setup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """An empty system, except an environment with what the wheel installs."""
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return make_setup(folder / "root", PREFIX, monkeypatch)


@pytest.fixture
def live_setup(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """The same, as if systemd ran this system."""
    monkeypatch.setattr(Setup, "is_live", lambda _: True)
    return setup
