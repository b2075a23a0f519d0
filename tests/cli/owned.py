"""Make folders with an owner and mode."""

import os
from pathlib import Path

USER = 20001


def folder(path: Path, owner: int = 0, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path
