"""The documents: the tests, links, commands and options that they name exist; their spelling is checked."""

import ast
import difflib
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pykcm import command_line
from pykcm.cli import main
from pykcm.config import OF_SSSD, OPTIONS
from pykcm.renew import program as renewal

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if path.is_file()
)

_REFERENCE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_tests_that_exist(document: str) -> None:
    """Each test module, and each test in it, that a document names exists."""
    missing = [
        reference.group()
        for reference in _REFERENCE.finditer((ROOT / document).read_text())
        if not exists(ROOT / reference[1], reference[2])
    ]
    assert missing == []


def exists(path: Path, name: str | None) -> bool:
    if name is None or not path.exists():
        return path.exists()
    return name in {getattr(node, "name", None) for node in ast.parse(path.read_text()).body}


@pytest.mark.parametrize(
    ("text", "status"),
    [("A ticket is retreived.\n", 65), ("A ticket is retrieved.\n", 0)],  # codespell:ignore
)
def test_spelling_is_checked(tmp_path: Path, text: str, status: int) -> None:
    """The spelling check of scripts/lint, with the project's settings, finds a mistake in a document."""
    document = tmp_path / "document.md"
    document.write_text(text)
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), str(document)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == status, done.stdout + done.stderr


# Links


# A link whose target is no URL: path and anchor, of which one may be missing.
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors that a forge gives to the headings of a document."""
    found: set[str] = set()
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", path.read_text()), re.MULTILINE)
    for heading in headings:
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(anchor if anchor not in found else f"{anchor}-1")
    return found


def broken_links(document: Path) -> list[str]:
    broken = []
    for path, anchor in _LINK.findall(_FENCED.sub("", document.read_text())):
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    return broken


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_existing_headings(document: str) -> None:
    """Each relative link names a file that exists, and a heading in it."""
    assert broken_links(ROOT / document) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A file or heading that does not exist is found, also in the same document."""
    document = tmp_path / "a.md"
    document.write_text("# One `two`\n[a](#one-two) [b](#three) [c](b.md) [d](a.md#one-two) [e](a.md#four)\n")
    assert broken_links(document) == ["#three", "b.md#", "a.md#four"]


def test_table_of_contents_has_every_document() -> None:
    """docs/README.md links to every other document in its folder."""
    contents = ROOT / "docs/README.md"
    linked = {path for path, _ in _LINK.findall(contents.read_text())}
    assert {path.name for path in ROOT.glob("docs/*.md")} - {contents.name} <= linked


# README


def test_readme_is_short() -> None:
    """README has at most 700 words, code included."""
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_figures_of_readme_are_measured() -> None:
    """Each figure with a unit in README is in bench/results.md."""
    figures = re.findall(r"[\d,.]*\d (?:µs|ms|/s|MiB)(?=\W)", (ROOT / "README.md").read_text())
    measured = (ROOT / "bench/results.md").read_text()
    assert len(figures) >= 18
    assert [figure for figure in figures if not re.search(rf"[ |]{re.escape(figure)}\b", measured)] == []


# Commands and options

_CODE = re.compile(r"^```.*?^```$|(?:^ {4,}.*\n)+|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[\s`/;&|(])(pykcmctl|pykcmd|pykcm-renew)(?= [^=])((?: +[^\s`;&|#)]+)*)")


def commands(text: str) -> list[list[str]]:
    """Every command of pykcm's programs in the code of a document."""
    code = [re.sub(r"\\\n\s*", "", part) for part in _CODE.findall(text)]
    return [[match[1], *match[2].split()] for part in code for match in _COMMAND.finditer(part)]


def long_options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]


def mistakes(command: list[str]) -> list[str]:
    """The commands and options that a command names and the program does not have."""
    name, *words = command
    if name != "pykcmctl":
        parser = command_line.parser() if name == "pykcmd" else renewal.parser()
        known = {option for action in parser._actions for option in action.option_strings}
        return [option for option in long_options(words) if option not in known]
    known = options_of(main.cli)
    group: click.Command = main.cli
    wrong = []
    for word in words:
        if isinstance(group, click.Group) and re.fullmatch("[a-z][a-z-]*", word):
            inner = group.commands.get(word)
            if inner is None:
                return [word]
            group = inner
            known = known | options_of(inner)
        elif word.startswith("--") and long_options([word])[0] not in known:
            wrong.append(word)
    return wrong


def options_of(command: click.Command) -> set[str]:
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_commands_that_exist(document: str) -> None:
    """Each command of pykcmctl, pykcmd and pykcm-renew in a document has the options that it is given."""
    found = commands((ROOT / document).read_text())
    assert [(command, mistakes(command)) for command in found if mistakes(command)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`pykcmctl lists`", ["lists"]),
        ("    pykcmctl list \\\n        --nobody\n", ["--nobody"]),
        ("    x && pykcmctl store copy a --colour\n", ["--colour"]),
        ("```\n/opt/pykcm/bin/pykcmd --fast\n```", ["--fast"]),
        ("`pykcmctl list --json | jq --raw`", []),
        ("`pykcmctl destroy --uid 1000 --yes`", []),
    ],
)
def test_wrong_commands_are_found(text: str, expected: list[str]) -> None:
    (command,) = commands(text)
    assert mistakes(command) == expected


# Names of other things that resemble an option: of sssd, of krb5.conf, of an earlier version.
FOREIGN = {"krb5_renewable_lifetime", "max_renewable_life", "metrics_listen"}


def wrong_options(text: str) -> list[str]:
    """Names in code that resemble an option of pykcm.toml, and are none."""
    named = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)(?: = [^`]*)?`", text))
    close = {name for name in named if difflib.get_close_matches(name, OPTIONS, cutoff=0.75)}
    return sorted(close - set(OPTIONS) - FOREIGN)


# Most names there are of metrics, or keys of messages.
_WITH_OTHER_NAMES = {"docs/control-protocol.md", "docs/metrics.md"}


@pytest.mark.parametrize("document", sorted(set(DOCUMENTS) - _WITH_OTHER_NAMES))
def test_documents_name_options_that_exist(document: str) -> None:
    """No name in a document is a wrong one of an option."""
    assert wrong_options((ROOT / document).read_text()) == []


def test_wrong_options_are_found() -> None:
    """A mistake in the name of an option, and an option that was renamed, are found."""
    text = "`max_uid_ccache` `max_uid_ccaches` `renew_at = 0.5` `max_ccache_bytes = 1`"
    assert wrong_options(text) == ["max_ccache_bytes", "max_uid_ccache"]


def test_every_option_of_sssd_kcm_is_explained() -> None:
    """The table in docs/moving.md names options that exist here or that pykcmd --check knows as sssd's."""
    text = (ROOT / "docs/moving.md").read_text()
    table = text.partition("| sssd.conf | pykcm.toml |")[2].partition("\n\n")[0]
    rows = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    named = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert named >= {"max_uid_ccaches", "ccache_storage", "debug_level"}
    assert named <= {*OPTIONS, *OF_SSSD}
