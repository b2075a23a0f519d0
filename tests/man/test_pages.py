"""The man pages: man renders them without a warning, and nothing is missing in them, nor in README."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from pykcm.cli import main
from pykcm.command_line import parser
from pykcm.config import Config, load_config

ROOT = Path(__file__).parents[2]
PAGES = ["man8/pykcmd.8", "man8/pykcmctl.8", "man5/pykcm.toml.5", "man7/pykcm.7"]

COMMANDS = dict(main.cli.commands)
WITH_JSON = sorted(
    name for name, command in COMMANDS.items() if any("--json" in each.opts for each in command.params)
)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages, made as scripts/man makes them."""
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
    """What man shows, in lines of any length, and what it complains of."""
    if shutil.which("man") is None:
        pytest.skip("man-db is not here")
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
def test_a_page_is_rendered(pages: Path, page: str) -> None:
    """Every page is there, and man renders it without a warning."""
    text, complaints = rendered(pages / page)
    assert complaints == ""
    name = page.rpartition("/")[2].rpartition(".")[0]
    assert re.search(rf"^NAME\n +{re.escape(name)} - \w", text, re.MULTILINE)


def test_no_other_page(pages: Path) -> None:
    """There are no pages that this does not know."""
    there = [str(path.relative_to(pages)) for path in pages.rglob("*") if path.is_file()]
    assert sorted(there) == sorted(PAGES)


def test_a_warning_is_seen(pages: Path, tmp_path: Path) -> None:
    """What man would complain of is found by the test of it."""
    page = tmp_path / "wrong.8"
    page.write_text((pages / PAGES[0]).read_text() + ".nonsense\n\\[nonsense]\n")
    assert rendered(page)[1]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command(pages: Path, name: str) -> None:
    """Every command stands in pykcmctl(8) with all of its options."""
    text = text_of(pages / "man8/pykcmctl.8")
    found = re.search(rf"^   {name}\n(.*?)(?=^   \S|^\S)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    options = [opt for each in COMMANDS[name].params if isinstance(each, click.Option) for opt in each.opts]
    assert [opt for opt in options if not re.search(rf"^ +(.*, )?{opt}\b", found[1], re.MULTILINE)] == []


@pytest.mark.parametrize("name", WITH_JSON)
def test_the_json_of_every_command(name: str) -> None:
    """Whatever prints JSON has it described, in a file of the command's name."""
    assert (ROOT / "man/commands" / f"{name}.rst").exists()


def test_no_text_of_a_command_that_is_gone() -> None:
    """There are no texts for commands that are not there."""
    assert {path.stem for path in (ROOT / "man/commands").iterdir()} <= set(COMMANDS)


def test_exit_statuses(pages: Path) -> None:
    """Every exit status of pykcmctl is explained."""
    statuses = {value for name, value in vars(main).items() if name.startswith("EXIT_")} | {0}
    found = re.search(r"^EXIT STATUS\n(.*?)^\S", text_of(pages / "man8/pykcmctl.8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    assert {int(number) for number in re.findall(r"^ {7}(\d+) ", found[1], re.MULTILINE)} == statuses


def test_options_of_the_daemon(pages: Path) -> None:
    """Every option of pykcmd stands in pykcmd(8)."""
    text = text_of(pages / "man8/pykcmd.8")
    options = [opt for action in parser()._actions for opt in action.option_strings]
    assert "--config" in options
    assert [opt for opt in options if not re.search(rf"^ +(.*, )?{opt}\b", text, re.MULTILINE)] == []


def test_options_of_the_configuration(pages: Path) -> None:
    """Every option stands in pykcm.toml(5), with its default and what it takes."""
    text = text_of(pages / "man5/pykcm.toml.5")
    for option in (row[0].strip("`") for row in readme_table("option")):
        found = re.search(rf"^ {{7}}{option}\b(.*?)(?=^ {{7}}\S|^\S)", text, re.MULTILINE | re.DOTALL)
        assert found is not None, option
        assert "Default: " in found[1]
        assert "Takes " in found[1]


# README


def readme_table(head: str) -> list[list[str]]:
    """The cells of the table whose first heading this is."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found is not None
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found[1].splitlines()]


def test_readme_has_every_command() -> None:
    """README's table of commands has every one, and no other."""
    names = [name for row in readme_table("pykcmctl") for name in re.findall(r"`([a-z]+)[^`]*`", row[0])]
    assert sorted(names) == sorted(COMMANDS)


# Their defaults depend on others.
WORDS: dict[str, Any] = {"key_file": None, "control_socket_path": None}


def test_readme_has_the_defaults(tmp_path: Path) -> None:
    """README's defaults are the program's, and they are what could be written into the file."""
    rows = [row for row in readme_table("option") if row[0].strip("`") not in WORDS]
    file = tmp_path / "pykcm.toml"
    file.write_text("".join(f"{row[0].strip('`')} = {row[1].strip('`')}\n" for row in rows))
    assert load_config(file) == Config()


def test_names_of_ccaches_are_no_links(pages: Path) -> None:
    """What begins with FILE: looks like a URL to docutils."""
    text, _ = rendered(pages / "man8/pykcmctl.8")
    assert "FILE:/run/user/%{uid}/krb5cc" in text
