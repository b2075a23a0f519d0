"""The Debian packages: what they bundle is pinned, and fits to what pyproject.toml and the units say."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

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
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["postgresql"], *extras["renew"]]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def pinned(name: str) -> dict[str, str]:
    return {
        canonicalize_name(found[1]): found[2] for found in _PINNED.finditer((PACKAGING / name).read_text())
    }


def test_locks_exist() -> None:
    """There is a list for pip, one for each release, one of what is built from source, and one of tools."""
    assert LOCKS == ["bookworm.txt", "requirements.txt", "source.txt", "tools.txt", "trixie.txt"]


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
    # Not for everyone: pip would compile it.
    assert declared().keys() - pinned("requirements.txt").keys() == {"krb5"}
    assert "krb5" in pinned("source.txt")


def test_debian_modules_have_the_lowest_versions() -> None:
    """The packages depend on Debian's modules in the lowest versions that pyproject.toml declares."""
    found = dict(re.findall(r"python3-(\w+)(?:-c)? \(>= ([\d.]+)\)", (DEBIAN / "rules").read_text()))
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
    for package in ("pykcm", "pykcm-renew"):
        prerm = (DEBIAN / f"{package}.prerm").read_text()
        assert [line for line in prerm.splitlines() if line.startswith("if ")] == [
            'if [ "$1" = remove ] && [ -d /run/systemd/system ]; then'
        ]


def test_policy_module_labels_every_program() -> None:
    """The scripts of the module's package label each program that the module has a type for."""
    labelled = set(re.findall(r"^/usr/bin/\S+", (ROOT / "selinux/pykcm.fc").read_text(), re.MULTILINE))
    assert {"/usr/bin/pykcmd", "/usr/bin/pykcm-renew"} <= labelled
    for name in ("pykcm-selinux.postinst", "pykcm-selinux.prerm"):
        script = (DEBIAN / name).read_text()
        assert {each for each in labelled if f"{each} " not in script} == set()
        assert "pykcm-renew.service" in script


def test_scripts_stop_every_unit() -> None:
    """A removal stops each unit of the package."""
    scripts = (DEBIAN / "pykcm.prerm").read_text() + (DEBIAN / "pykcm-renew.prerm").read_text()
    units = {path.name for path in (ROOT / "systemd").iterdir() if path.suffix in {".service", ".socket"}}
    assert {unit for unit in units if unit not in scripts} == set()


def make_wheel(path: Path, *, with_licence: bool, parts: list[dict[str, Any]] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("some/__init__.py", "")
        metadata = "Metadata-Version: 2.4\nName: Some\nVersion: 1.2\nLicense-Expression: MIT\n"
        wheel.writestr("some-1.2.dist-info/METADATA", metadata)
        # An empty folder is no licence.
        wheel.writestr("some-1.2.dist-info/licenses/", "")
        if with_licence:
            wheel.writestr("some-1.2.dist-info/licenses/LICENSE.txt", "Permission is granted")
        if parts is not None:
            wheel.writestr("some-1.2.dist-info/sboms/some.cdx.json", json.dumps({"components": parts}))
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


def test_libraries_inside_wheel_are_listed(tmp_path: Path) -> None:
    """Libraries in a wheel's own list, such as crates, are listed below the wheel with their licences."""
    crate = {
        "name": "aead",
        "version": "0.5.2",
        "purl": "pkg:cargo/aead@0.5.2",
        "licenses": [{"expression": "MIT"}],
    }
    parts: list[dict[str, Any]] = [
        {"type": "library", "bom-ref": "x", **crate},
        {"type": "library", "name": "SOME", "version": "1.2"},
    ]
    wheel = make_wheel(tmp_path / "some-1.2-py3-none-any.whl", with_licence=True, parts=parts)
    assert bundle(tmp_path, "root", "pykcm", str(wheel)).returncode == 0
    (component,) = json.loads((tmp_path / "root/usr/share/doc/pykcm/sbom.cdx.json").read_text())["components"]
    (part,) = component["components"]
    assert {key: part[key] for key in crate} == crate
    assert part["bom-ref"] == "pkg:pypi/some@1.2#pkg:cargo/aead@0.5.2"


def test_sqlcipher_inside_extension_is_listed(tmp_path: Path) -> None:
    """Where SQLCipher is compiled in, it and SQLite are listed with their versions and licences."""
    source = tmp_path / "sqlite3.c"
    source.write_text(
        '#define SQLITE_VERSION        "3.53.4"\n'
        "**\n** Copyright (c) 2008-2024, ZETETIC LLC\n** Redistribution is permitted\n**\n*/\n"
        "#define CIPHER_VERSION_NUMBER 4.19.0\n"
    )
    assert bundle(tmp_path, "--amalgamation", str(source), "root", "pykcm").returncode == 0
    documents = tmp_path / "root/usr/share/doc/pykcm"
    components = json.loads((documents / "sbom.cdx.json").read_text())["components"]
    found = [(each["name"], each["version"], each["licenses"]) for each in components]
    assert found == [
        ("SQLCipher", "4.19.0", [{"license": {"id": "BSD-3-Clause"}}]),
        ("SQLite", "3.53.4", [{"license": {"id": "blessing"}}]),
    ]
    licence = (documents / "bundled/SQLCipher/LICENSE").read_text()
    assert licence == "Copyright (c) 2008-2024, ZETETIC LLC\nRedistribution is permitted\n\n"


def test_other_source_is_no_sqlcipher(tmp_path: Path) -> None:
    """A file without a version of SQLCipher stops the build."""
    source = tmp_path / "sqlite3.c"
    source.write_text('#define SQLITE_VERSION "3.53.4"\n')
    done = bundle(tmp_path, "--amalgamation", str(source), "root", "pykcm")
    assert (done.returncode, "is no SQLCipher" in done.stderr) == (1, True)


def test_wheel_without_licence_is_not_bundled(tmp_path: Path) -> None:
    """A library whose licence is not known stops the build."""
    wheel = make_wheel(tmp_path / "some-1.2-py3-none-any.whl", with_licence=False)
    done = bundle(tmp_path, "root", "pykcm", str(wheel))
    assert (done.returncode, "has no licence" in done.stderr) == (1, True)
