"""The wheel and the sdist, built by packaging/backend.py from copies of this checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DATE = "1700000000"

# Generated and private files of a checkout; most of them are at its top.
_EVERYWHERE = shutil.ignore_patterns(".*", "__pycache__")
_AT_TOP = {"run", "build", "dist", "generated"}


class Build(NamedTuple):
    """The files of one build, and the folder that it was made from."""

    tree: Path
    sdist: Path
    wheel: Path


def build(tree: Path, out: Path, *targets: str, **environment: str) -> None:
    """Build targets in the folder, as pip's backend process does."""
    code = f"import backend; [getattr(backend, 'build_' + each)({str(out)!r}) for each in {targets!r}]"
    out.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        check=True,
        timeout=100,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tree / "packaging"),
            "SOURCE_DATE_EPOCH": DATE,
            **environment,
        },
    )


def copy_checkout(target: Path) -> Path:
    shutil.copytree(ROOT, target, ignore=_left_out, symlinks=True)
    return target


def _left_out(folder: str, names: list[str]) -> set[str]:
    return _EVERYWHERE(folder, names) | (_AT_TOP if Path(folder) == ROOT else set())


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """An sdist from a checkout, and a wheel from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("built")
    checkout = copy_checkout(folder / "checkout")
    build(checkout, folder / "out", "sdist")
    (sdist,) = (folder / "out").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (tree,) = (folder / "unpacked").iterdir()
    # Sphinx is not needed: an import of it fails.
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sphinx.py").write_text("raise ImportError('not needed')\n")
    build(tree, folder / "out", "wheel", PYTHONPATH=f"{tree / 'packaging'}:{folder / 'blocked'}")
    (wheel,) = (folder / "out").glob("*.whl")
    return Build(checkout, sdist, wheel)
