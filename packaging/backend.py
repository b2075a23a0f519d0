"""The build backend of pip and build: hatchling, with the files that an installation has under share/.

They are collected in build/share, which pyproject.toml adds to the wheel. Man pages, completions and the
example configuration are made from the code. An sdist has them in generated/, so that a wheel is built from
it without Sphinx.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling import build as hatchling

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ROOT / "generated"
SHARE = ROOT / "build" / "share"

# Folders that are installed as they are, and documents.
_FOLDERS = ("systemd", "krb5.conf.d", "selinux", "monitoring")
_DOCUMENTS = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"),
    *("docs", "bench/results.md"),
)

# Imported by generate.py, by Sphinx's configuration and by pykcmctl.
_GENERATOR_NEEDS = ["sphinx>=8", "click>=8.1", "msgspec>=0.18", "cbor2>=5.6.5"]

# 2020-02-02, as hatchling, where neither SOURCE_DATE_EPOCH nor git tells a date.
_DEFAULT_DATE = "1580601600"


def _is_sdist() -> bool:
    return (ROOT / "PKG-INFO").exists()


def _source_date() -> str:
    """SOURCE_DATE_EPOCH, or the date of the last commit: two builds of one commit are equal."""
    date = os.environ.get("SOURCE_DATE_EPOCH")
    if not date and (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        date = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return date or _DEFAULT_DATE


def _generate() -> None:
    """Make the files that come from the code, unless they came with the sdist."""
    os.environ["SOURCE_DATE_EPOCH"] = _source_date()
    if _is_sdist():
        return
    if not os.access(ROOT, os.W_OK):
        message = (
            f"cannot build in {ROOT}: you may not write there; build it as its owner, or in a copy of yours"
        )
        raise SystemExit(message)
    shutil.rmtree(GENERATED, ignore_errors=True)
    # In a process of its own: the package that is built is not imported by its backend.
    subprocess.run([sys.executable, str(ROOT / "packaging" / "generate.py"), str(GENERATED)], check=True)


def _collect(*, generated: bool) -> None:
    shutil.rmtree(SHARE, ignore_errors=True)
    program = SHARE / "pykcm"
    for name in _FOLDERS:
        if (ROOT / name).is_dir():
            _copy(ROOT / name, program / name)
    for name in _DOCUMENTS:
        _copy(ROOT / name, SHARE / "doc" / "pykcm" / name)
    if generated:
        _copy(GENERATED, SHARE)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True
        )
    else:
        shutil.copyfile(source, target)


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what the generators import."""
    return [] if _is_sdist() else list(_GENERATOR_NEEDS)


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what the generators import; nothing for a wheel from an sdist."""
    return get_requires_for_build_sdist(config_settings)


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Build the sdist with the generated files."""
    _generate()
    return hatchling.build_sdist(sdist_directory, config_settings)


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the wheel with everything under share/."""
    _generate()
    _collect(generated=True)
    return hatchling.build_wheel(wheel_directory, config_settings, metadata_directory)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return hatchling's own requirements: an editable installation has no generated files."""
    return hatchling.get_requires_for_build_editable(config_settings)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build an editable wheel; it has the units, and no man pages."""
    _collect(generated=False)
    return hatchling.build_editable(wheel_directory, config_settings, metadata_directory)
