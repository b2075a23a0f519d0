"""Make folders and ccache files with an owner and mode."""

import os
from pathlib import Path

from tests.builders import TGS, credential_bytes, file_bytes, offset_tag

USER = 20001


def folder(path: Path, owner: int = 0, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def ccache(path: Path, owner: int = os.geteuid(), **more: object) -> Path:
    """Write a ccache file with one ticket; `more`: arguments of file_bytes."""
    path.write_bytes(file_bytes(credential_bytes(TGS), tags=offset_tag(-3), **more))  # type: ignore[arg-type]
    os.chown(path, owner, owner)
    return path
