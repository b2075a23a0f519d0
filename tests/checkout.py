"""A checkout in which programs of scripts/ run with the environment of the tests."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make_checkout(folder: Path, scripts: Sequence[str], linked: Sequence[str] = ()) -> Path:
    """Copy these scripts, and link these folders of the project. There is nothing to install."""
    (folder / "scripts").mkdir(parents=True)
    for name in (*scripts, "environment.sh"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    bootstrap = folder / "scripts" / "bootstrap"
    bootstrap.write_text("#!/bin/sh\n")
    bootstrap.chmod(0o755)
    for name in linked:
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder
