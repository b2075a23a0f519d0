"""The man pages and the documents' tables: they are complete, and man renders the pages without a warning."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pykcm import audit, command_line
from pykcm.cli import main
from pykcm.config import ALLOWED, OPTIONS, Config, load_config
from pykcm.renew import program as renewal

ROOT = Path(__file__).parents[2]
PAGES = [
    *("man8/pykcmd.8", "man8/pykcmctl.8", "man8/pykcm-renew.8", "man8/pykcm-audit.8"),
    *("man5/pykcm.toml.5", "man7/pykcm.7"),
]

COMMANDS = dict(main.cli.commands)
WITH_JSON = sorted(
    name for name, command in COMMANDS.items() if any("--json" in each.opts for each in command.params)
)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages, made in the same way as by scripts/man."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "--builder", "man", "--quiet", "--fail-on-warning"),
            *("--doctree-dir", str(tmp_path_factory.mktemp("doctrees")), str(ROOT / "man"), str(folder)),
        ],
        check=True,
        timeout=60,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)},
    )
    return folder


def rendered(page: Path, *options: str) -> tuple[str, str]:
    """Return man's output, in lines of any length, and its warnings."""
    if shutil.which("man") is None:
        pytest.skip("man-db is not installed")
    done = subprocess.run(
        ["man", "--warnings", *options, "--local-file", str(page)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "MANWIDTH": "1000",
            "MAN_KEEP_FORMATTING": "",
            "MANPAGER": "cat",
            "GROFF_NO_SGR": "1",
        },
    )
    return re.sub(".\b", "", done.stdout), done.stderr


def text_of(page: Path) -> str:
    return rendered(page)[0].replace("\u2010", "-").replace("\u2212", "-")


@pytest.mark.parametrize("page", PAGES)
def test_page_is_rendered_without_warnings(pages: Path, page: str) -> None:
    """Every page exists, and man renders it without a warning."""
    text, warnings = rendered(pages / page)
    assert warnings == ""
    name = page.rpartition("/")[2].rpartition(".")[0]
    assert re.search(rf"^NAME\n +{re.escape(name)} - \w", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_page_has_examples(pages: Path, page: str) -> None:
    """Every page has an EXAMPLES section."""
    assert re.search(r"^EXAMPLES\n", text_of(pages / page), re.MULTILINE)


def test_no_further_pages_are_made(pages: Path) -> None:
    """The tests know all pages."""
    made = [str(path.relative_to(pages)) for path in pages.rglob("*") if path.is_file()]
    assert sorted(made) == sorted(PAGES)


def test_warnings_of_man_are_noticed(pages: Path, tmp_path: Path) -> None:
    """The function that renders a page returns man's warnings."""
    page = tmp_path / "wrong.8"
    page.write_text((pages / PAGES[0]).read_text() + ".nonsense\n\\[nonsense]\n")
    assert rendered(page)[1]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_pykcmctl_page_has_every_command(pages: Path, name: str) -> None:
    """Every command is in pykcmctl(8) with all of its options."""
    text = text_of(pages / "man8/pykcmctl.8")
    found = re.search(rf"^   {name}\n(.*?)(?=^   \S|^\S)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    options = [opt for each in COMMANDS[name].params if isinstance(each, click.Option) for opt in each.opts]
    assert [opt for opt in options if not re.search(rf"^ +(.*, )?{opt}\b", found[1], re.MULTILINE)] == []


@pytest.mark.parametrize("name", WITH_JSON)
def test_json_of_every_command_is_described(name: str) -> None:
    """A command that prints JSON has a file that describes it."""
    assert (ROOT / "man/commands" / f"{name}.rst").exists()


def test_removed_commands_have_no_text() -> None:
    """There are no texts for commands that do not exist."""
    assert {path.stem for path in (ROOT / "man/commands").iterdir()} <= set(COMMANDS)


def test_pykcmctl_page_has_every_exit_status(pages: Path) -> None:
    """Every exit status of pykcmctl is in pykcmctl(8)."""
    statuses = {value for name, value in vars(main).items() if name.startswith("EXIT_")} | {0}
    found = re.search(r"^EXIT STATUS\n(.*?)^\S", text_of(pages / "man8/pykcmctl.8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    assert {int(number) for number in re.findall(r"^ {7}(\d+) ", found[1], re.MULTILINE)} == statuses


@pytest.mark.parametrize(
    ("program", "made"), [("pykcmd", command_line.parser), ("pykcm-renew", renewal.parser)]
)
def test_page_has_every_option(
    pages: Path, program: str, made: Callable[[], argparse.ArgumentParser]
) -> None:
    """Every option of a program is in its page."""
    text = text_of(pages / f"man8/{program}.8")
    options = [opt for action in made()._actions for opt in action.option_strings]
    assert "--config" in options
    assert [opt for opt in options if not re.search(rf"^ +(.*, )?{opt}\b", text, re.MULTILINE)] == []


def test_every_program_has_a_page(pages: Path) -> None:
    """Packages for Debian and Fedora are checked for this."""
    programs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {path.stem for path in (pages / "man8").iterdir()} == set(programs)


def test_audit_page_has_every_option_and_exit_status(pages: Path) -> None:
    text = text_of(pages / "man8/pykcm-audit.8")
    for option in re.findall(r"--?\w+", audit._HELP.partition("\n")[0].replace("pykcm-audit", "")):
        assert re.search(rf"^ +(.*, )?{option}\b", text, re.MULTILINE), option
    found = re.search(r"^EXIT STATUS\n(.*?)^\S", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    statuses = {value for name, value in vars(audit).items() if name.startswith("EXIT_")} | {0}
    assert {int(number) for number in re.findall(r"^ {7}(\d) ", found[1], re.MULTILINE)} == statuses


def test_configuration_page_has_every_option(pages: Path) -> None:
    """Every option is in pykcm.toml(5), with its default and its valid values."""
    text = text_of(pages / "man5/pykcm.toml.5")
    for option in OPTIONS:
        found = re.search(rf"^ {{7}}{option}\b(.*?)(?=^ {{7}}\S|^\S)", text, re.MULTILINE | re.DOTALL)
        assert found is not None, option
        assert "Default: " in found[1]
        assert f"Takes {ALLOWED[option]}." in found[1]


# The documents


def test_document_has_every_command() -> None:
    """The table in docs/operations.md has exactly the commands of pykcmctl."""
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"^\| pykcmctl \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found is not None
    first_cells = [row.split(" | ")[0] for row in found[1].splitlines()]
    names = [name for cell in first_cells for name in re.findall(r"`([a-z]+)[^`]*`", cell)]
    assert sorted(names) == sorted(COMMANDS)


def documented_options() -> list[tuple[str, ...]]:
    """The options in docs/configuration.md: name, default, and valid values."""
    text = (ROOT / "docs/configuration.md").read_text()
    return re.findall(r"^### `(\w+)`\n\nDefault: (.*?)\. Value: (.*)\.\n\n\w", text, re.MULTILINE)


# Options whose defaults depend on other options.
DEPENDENT: dict[str, Any] = dict.fromkeys(("key_file", "control_socket_path", "postgresql", "client_keytab"))


def test_configuration_document_has_the_defaults(tmp_path: Path) -> None:
    """docs/configuration.md has the defaults of the program, in the format of the configuration file."""
    file = tmp_path / "pykcm.toml"
    file.write_text(
        "".join(
            f"{name} = {default.strip('`')}\n"
            for name, default, _ in documented_options()
            if name not in DEPENDENT
        )
    )
    assert load_config(file) == Config()


def test_configuration_document_has_the_valid_values() -> None:
    """docs/configuration.md describes valid values in the words of the program's messages."""
    assert {name: allowed for name, _, allowed in documented_options()} == ALLOWED


def test_ccache_names_are_not_links(pages: Path) -> None:
    """A ccache name that begins with FILE: looks like a URL to docutils."""
    text, _ = rendered(pages / "man8/pykcmctl.8")
    assert "FILE:/srv/%{uid}/cc" in text
