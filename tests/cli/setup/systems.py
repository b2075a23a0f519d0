"""A system for setup, and a record of the commands that it runs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from pykcm.cli.installation import Setup

ROOT = Path(__file__).parents[3]

PREFIX = Path("/opt/pykcm")

# Of the files that the wheel installs, those that man and the shells read.
PAGES = (
    "share/man/man5/pykcm.toml.5",
    "share/man/man8/pykcmctl.8",
    "share/bash-completion/completions/pykcmctl",
    "share/zsh/site-functions/_pykcmctl",
    "share/fish/vendor_completions.d/pykcmctl.fish",
)


class Recorder:
    """Takes the place of systemd's commands. A command with the word `failing` fails."""

    def __init__(self) -> None:
        self.enabled: set[str] = set()
        self.active: set[str] = set()
        self.failing = ""
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str]) -> bool:
        if "is-enabled" in argv:
            return argv[-1] in self.enabled
        if "is-active" in argv:
            return argv[-1] in self.active
        self.calls.append(tuple(argv))
        return self.failing not in argv


def make_setup(root: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    environment = root / prefix.relative_to("/")
    for name in ("systemd", "krb5.conf.d"):
        shutil.copytree(ROOT / name, environment / "share" / "pykcm" / name)
    for page in PAGES:
        (environment / page).parent.mkdir(parents=True, exist_ok=True)
        (environment / page).touch()
    (environment / "bin").mkdir()
    for program in ("pykcmctl", "pykcmd"):
        (environment / "bin" / program).touch()
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(environment))
    return Setup(root, environment)


def files_in(folder: Path) -> set[str]:
    """The files except those of the environment."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {str(path) for path in found if path.parts[0] != "opt"}


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
