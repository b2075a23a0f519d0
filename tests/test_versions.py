"""The version: the programs, the changelog and the packages name the same one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pykcm import __version__

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("CHANGELOG.md", r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$"),
        ("packaging/debian/changelog", r"^pykcm \(([\d.]+)-\d+\) "),
        ("packaging/rpm/pykcm.spec", r"^Version: +([\d.]+)$"),
        ("packaging/rpm/pykcm.spec", r"^\* .* - ([\d.]+)-\d+$"),
    ],
)
def test_newest_version_is_named(path: str, pattern: str) -> None:
    """The first version in each file is that of the code; a release has a date."""
    found = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == __version__


@pytest.mark.parametrize(
    ("module", "name"),
    [("pykcm", "pykcmd"), ("pykcm.cli.main", "pykcmctl"), ("pykcm.renew.program", "pykcm-renew")],
)
def test_programs_print_the_version(module: str, name: str) -> None:
    """--version prints the program's name and the version."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [name, __version__]
