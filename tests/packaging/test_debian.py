"""The Debian packages: what they bundle is pinned, and fits to what pyproject.toml and the units say."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pykcm import __version__

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
DEBIAN = PACKAGING / "debian"
LOCKS = sorted(path.name for path in PACKAGING.glob("*.txt"))

_PINNED = re.compile(
    r"^([\w.\[\]-]+)==(\S+)(?: ; .*?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def declared() -> dict[str, Requirement]:
    """Return the requirements of the project and its extra for the shared store."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def pinned(name: str) -> dict[str, str]:
    return {
        canonicalize_name(found[1]): found[2] for found in _PINNED.finditer((PACKAGING / name).read_text())
    }


def test_locks_exist() -> None:
    """There is a list for pip, one for each release, and one of what is built from source."""
    assert LOCKS == ["bookworm.txt", "requirements.txt", "source.txt", "trixie.txt"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_pinned_library_has_hashes(name: str) -> None:
    """Each line that is no comment belongs to a version with hashes."""
    text = re.sub(r"^#.*\n", "", (PACKAGING / name).read_text(), flags=re.MULTILINE)
    assert pinned(name)
    assert _PINNED.sub("", text).strip() == ""


@pytest.mark.parametrize("name", LOCKS)
def test_pinned_versions_are_allowed(name: str) -> None:
    """Pinned versions are within the bounds of pyproject.toml: a raised bound is not forgotten here."""
    known = declared()
    wrong = [
        f"{library}=={version}"
        for library, version in pinned(name).items()
        if library in known and version not in known[library].specifier
    ]
    assert wrong == []


def test_lock_for_pip_has_every_library() -> None:
    """The list for pip has each library of the project and of its extra postgresql."""
    assert declared().keys() <= pinned("requirements.txt").keys()


def test_debian_modules_have_the_lowest_versions() -> None:
    """The packages depend on Debian's modules in the lowest versions that pyproject.toml declares."""
    found = dict(re.findall(r"python3-(\w+) \(>= ([\d.]+)\)", (DEBIAN / "rules").read_text()))
    lowest = {name: re.search(r">=([\d.]+)", str(each.specifier)) for name, each in declared().items()}
    assert found == {name: version[1] for name, version in lowest.items() if version and name in found}
    assert {"click", "msgspec", "cbor2", "rich", "cryptography", "psycopg"} == found.keys()


def test_package_has_the_version_of_the_project() -> None:
    """The newest entry of debian/changelog is of this version."""
    found = re.match(r"pykcm \((.*?)-\d+\) ", (DEBIAN / "changelog").read_text())
    assert found is not None
    assert found[1] == __version__


def test_package_has_a_program_for_each_unit() -> None:
    """Each program that a unit starts is installed, and ignores the caller's PYTHONPATH."""
    for unit in (ROOT / "systemd").glob("*.service"):
        for program in re.findall(r"^ExecStart=/usr/bin/([\w-]+)", unit.read_text(), re.MULTILINE):
            path = PACKAGING / "programs" / program
            assert path.read_text().startswith("#!/usr/bin/python3 -I\n")
            assert os.access(path, os.X_OK)


def test_programs_call_the_entry_points() -> None:
    """The package's programs are those of pyproject.toml, and no others."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {path.name for path in (PACKAGING / "programs").iterdir()} == entry_points.keys()
    for name, target in entry_points.items():
        module, function = target.split(":")
        assert f"from {module} import {function}\n" in (PACKAGING / "programs" / name).read_text()


def test_upgrades_do_not_stop_the_socket() -> None:
    """The handling of units by debhelper is off, and the script before an upgrade stops nothing."""
    assert "\noverride_dh_installsystemd:\n\n" in (DEBIAN / "rules").read_text()
    prerm = (DEBIAN / "pykcm.prerm").read_text()
    assert [line for line in prerm.splitlines() if line.startswith("if ")] == [
        'if [ "$1" = remove ] && [ -d /run/systemd/system ]; then'
    ]


def make_wheel(path: Path, *, with_licence: bool) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("some/__init__.py", "")
        metadata = "Metadata-Version: 2.4\nName: Some\nVersion: 1.2\nLicense-Expression: MIT\n"
        wheel.writestr("some-1.2.dist-info/METADATA", metadata)
        # An empty folder is no licence.
        wheel.writestr("some-1.2.dist-info/licenses/", "")
        if with_licence:
            wheel.writestr("some-1.2.dist-info/licenses/LICENSE.txt", "Permission is granted")
    return path


def bundle(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PACKAGING / "bundle.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_bundled_wheel_is_listed_with_its_licence(tmp_path: Path) -> None:
    """A wheel is unpacked into the private folder; the SBOM names it, and its licence is beside the SBOM."""
    wheel = make_wheel(tmp_path / "some-1.2-py3-none-any.whl", with_licence=True)
    assert bundle(tmp_path, "root", "pykcm", str(wheel)).returncode == 0
    package = tmp_path / "root"
    assert (package / "usr/lib/pykcm/some/__init__.py").exists()
    documents = package / "usr/share/doc/pykcm"
    assert (documents / "bundled/Some/LICENSE.txt").read_text() == "Permission is granted"
    sbom = json.loads((documents / "sbom.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    (component,) = sbom["components"]
    assert (component["purl"], component["licenses"]) == ("pkg:pypi/some@1.2", [{"expression": "MIT"}])


def test_wheel_without_licence_is_not_bundled(tmp_path: Path) -> None:
    """A library whose licence is not known stops the build."""
    wheel = make_wheel(tmp_path / "some-1.2-py3-none-any.whl", with_licence=False)
    done = bundle(tmp_path, "root", "pykcm", str(wheel))
    assert (done.returncode, "has no licence" in done.stderr) == (1, True)
