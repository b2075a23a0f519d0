"""packaging/rpm/pykcm.spec has the versions and the files of the project; `scripts/package rpm` builds it."""

import re
from pathlib import Path

from pykcm import __version__
from tests.packaging.test_debian import PACKAGING, ROOT, declared, pinned

SPEC = (PACKAGING / "rpm/pykcm.spec").read_text()
FILES = SPEC[SPEC.index("\n%files\n") : SPEC.index("\n%changelog\n")]


def macros() -> dict[str, str]:
    return dict(re.findall(r"^%global (\w+) (.*)$", SPEC, re.MULTILINE))


def test_versions_are_those_of_the_project() -> None:
    """The package has the project's version, also in the newest entry of its changelog."""
    assert re.findall(r"^Version: +(.*)$", SPEC, re.MULTILINE) == [__version__]
    entry = re.search(r"^%changelog\n\* .* - (\S+)-\d+$", SPEC, re.MULTILINE)
    assert entry is not None
    assert entry[1] == __version__


def test_bundled_versions_are_pinned() -> None:
    """The libraries are those whose hashes packaging/*.txt have."""
    sqlcipher3, pyrage = pinned("source.txt")["sqlcipher3"], pinned("trixie.txt")["pyrage"]
    assert macros()["sqlcipher3_version"] == sqlcipher3
    assert macros()["pyrage_wheel"].startswith(f"pyrage-{pyrage}-")
    assert f"bundled(python3dist(pyrage)) = {pyrage}\n" in SPEC


def test_modules_have_the_lowest_versions() -> None:
    """The packages depend on Fedora's modules in the lowest versions that pyproject.toml declares.

    Fedora's Python is newer than 3.11: the first bound of psycopg, for 3.11, is not for it.
    """
    found: dict[str, str] = dict(re.findall(r"^Requires: +python3-(\w+) >= ([\d.]+)$", SPEC, re.MULTILINE))
    lowest = {name: re.search(r">=([\d.]+)", str(each.specifier)) for name, each in declared().items()}
    expected = {name: bound[1] for name in found if (bound := lowest[name.replace("psycopg3", "psycopg")])}
    assert found == expected
    assert {"click", "msgspec", "cbor2", "rich", "cryptography", "psycopg3", "krb5"} == found.keys()


def test_every_unit_program_and_page_is_in_a_package() -> None:
    """Units, programs and man pages are in the lists of files."""
    patterns = [re.sub(r"%\{\w+\}/", "", line) for line in FILES.splitlines() if line.startswith("%{")]
    names = [
        *(path.name for path in (ROOT / "systemd").iterdir() if path.suffix in {".service", ".socket"}),
        *(path.name for path in (PACKAGING / "programs").iterdir()),
        *(f"man{path.stem[-1]}/{path.stem}" for path in (ROOT / "man").glob("*.[0-9].rst")),
    ]
    assert names
    missing = [name for name in names if not any(Path(name).match(pattern) for pattern in patterns)]
    assert missing == []


def test_users_are_in_the_package_that_needs_them() -> None:
    """The macro for older versions of rpm reads files that are there before the sdist is unpacked."""
    sources = dict(re.findall(r"^Source(\d+): +(.*)$", SPEC, re.MULTILINE))
    read = re.findall(r"^%sysusers_create_compat %\{SOURCE(\d+)\}$", SPEC, re.MULTILINE)
    assert [sources[number] for number in read] == ["pykcm.sysusers", "pykcm-renew.sysusers"]
    assert SPEC.count("%sysusers_create_compat ") == len(read)
