"""The wheel and the sdist are complete, and two builds of one commit have the same bytes."""

import email
import importlib
import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import msgspec
import pytest

from pykcm.config import DEFAULT_CONTROL_SOCKET, OPTIONS, load_config
from tests.packaging.conftest import ROOT, Build, build, copy_checkout


def installed_files(wheel: Path) -> set[str]:
    """Return what the wheel installs under the environment's prefix."""
    names = zipfile.ZipFile(wheel).namelist()
    return {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (each for each in archive.namelist() if each.endswith(f".data/data/{name}"))
        return archive.read(path).decode()


@pytest.mark.parametrize(
    "folder",
    ["systemd", "krb5.conf.d", "selinux", *(["monitoring"] if (ROOT / "monitoring").exists() else [])],
)
def test_wheel_has_every_file_of_folder(built: Build, folder: str) -> None:
    """Units, snippets and policy are in the wheel under share/pykcm."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert files
    assert {f"share/pykcm/{name}" for name in files} <= installed_files(built.wheel)


def test_wheel_has_documents(built: Build) -> None:
    """README and each document that it links to are in the wheel, at the same places to each other."""
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", (ROOT / "README.md").read_text())
    wanted = {"README.md", "CHANGELOG.md", "LICENSE", *(link for link in links if link)}
    assert {f"share/doc/pykcm/{name}" for name in wanted} <= installed_files(built.wheel)


def test_wheel_has_man_pages(built: Build) -> None:
    """Every man page is in the wheel, with the date of the build's commit."""
    pages = {path.stem for path in (ROOT / "man").glob("*.[0-9].rst")}
    assert pages
    wanted = {f"share/man/man{page.rpartition('.')[2]}/{page}" for page in pages}
    assert wanted == {name for name in installed_files(built.wheel) if name.startswith("share/man/")}
    assert '"Nov 14, 2023"' in read(built.wheel, "share/man/man8/pykcmctl.8")


@pytest.mark.parametrize(
    ("place", "shell"),
    [
        ("bash-completion/completions/pykcmctl", "bash"),
        ("zsh/site-functions/_pykcmctl", "zsh"),
        ("fish/vendor_completions.d/pykcmctl.fish", "fish"),
    ],
)
def test_wheel_has_completions(built: Build, place: str, shell: str) -> None:
    """Each shell finds its completion, which calls pykcmctl."""
    assert f"_PYKCMCTL_COMPLETE={shell}_complete" in read(built.wheel, f"share/{place}")


def test_example_configuration_has_every_default(built: Build, tmp_path: Path) -> None:
    """Every option is in the example; with all comments removed it changes nothing."""
    text = read(built.wheel, "share/pykcm/pykcm.toml")
    file = tmp_path / "pykcm.toml"
    file.write_text("")
    defaults = load_config(file)
    file.write_text(text)
    assert load_config(file) == defaults
    file.write_text(re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE))
    assert len(tomllib.loads(file.read_text())) > len(OPTIONS) / 2
    # Not set, this path is the same one as long as socket_path is the default.
    explicit = msgspec.structs.replace(defaults, control_socket_path=DEFAULT_CONTROL_SOCKET)
    assert load_config(file) == explicit
    assert [name for name in OPTIONS if not re.search(rf"^# ?{name}(?: =|:) ", text, re.MULTILINE)] == []


def test_wheel_starts_the_programs(built: Build) -> None:
    """The programs that units start are entry points of the wheel."""
    with zipfile.ZipFile(built.wheel) as archive:
        (entry_points,) = (each for each in archive.namelist() if each.endswith("entry_points.txt"))
        text = archive.read(entry_points).decode()
    for unit in (ROOT / "systemd").glob("*.service"):
        for program in re.findall(r"^ExecStart=/usr/bin/([\w-]+)", unit.read_text(), re.MULTILINE):
            assert f"{program} = pykcm" in text


def test_wheel_has_metadata(built: Build) -> None:
    """The licence and the supported Python are in the metadata; no test or tool is installed."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
        (path,) = (each for each in names if each.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {name.split("/")[0] for name in names} == {
        "pykcm",
        *(f"pykcm-{metadata['Version']}.{each}" for each in ("data", "dist-info")),
    }


def test_every_library_has_bounds() -> None:
    """Each library has a lowest version, and an upper bound before its next major version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    libraries = [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]
    unbounded = [each for each in libraries if ">=" not in each or ",<" not in each]
    # Its major versions are not announced as breaking, and hold its security fixes.
    assert unbounded == ["cryptography>=38.0.4"]


def test_sdist_has_every_file_of_the_checkout(built: Build) -> None:
    """The sdist has all files of the checkout, so that it can be tested, and the generated ones."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(
        # The checkout may be another user's.
        ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not listed:
        pytest.skip("this is no checkout of git")
    dotted = {name for name in listed if name.startswith(".") or "/." in name}
    present = {name for name in listed if (ROOT / name).exists()}
    assert present - dotted <= names
    assert "generated/man/man8/pykcmd.8" in names
    # A packager builds from it; nothing of the machine that made it is in there.
    assert {name for name in names if name.startswith(("build/", ".venv", ".cache"))} == set()


def test_two_builds_have_the_same_bytes(built: Build, tmp_path: Path) -> None:
    """Another folder, umask, locale, time zone and home change nothing; nor does the way over an sdist."""
    tree = copy_checkout(tmp_path / "a folder with another name")
    for path in tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    previous = os.umask(0o077)
    try:
        build(
            tree,
            tmp_path / "out",
            *("sdist", "wheel"),
            TZ="Pacific/Auckland",
            LC_ALL="C",
            HOME=str(tmp_path),
            PYTHONHASHSEED="7",
        )
    finally:
        os.umask(previous)
    for first in (built.sdist, built.wheel):
        assert (tmp_path / "out" / first.name).read_bytes() == first.read_bytes(), first.name


def test_checkout_is_built_without_git(tmp_path: Path) -> None:
    """A clone on a host without git gives a wheel."""
    tree = copy_checkout(tmp_path / "checkout")
    (tree / ".git").mkdir()
    (tmp_path / "bin").mkdir()
    build(tree, tmp_path / "out", "wheel", PATH=str(tmp_path / "bin"), SOURCE_DATE_EPOCH="")
    assert list((tmp_path / "out").glob("*.whl"))


def test_checkout_of_another_user_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may not write to the checkout reads why no wheel is built."""
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    backend = importlib.import_module("backend")
    monkeypatch.setattr(backend, "ROOT", tmp_path)
    monkeypatch.setattr(backend.os, "access", lambda path, _mode: path != tmp_path)
    with pytest.raises(SystemExit, match=f"cannot build in {tmp_path}: .* its owner"):
        backend.build_wheel(str(tmp_path / "out"))
