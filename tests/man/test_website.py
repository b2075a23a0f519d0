"""The HTML that scripts/docs makes: it has all pages, its search finds them, and its links lead somewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from pykcm import config
from pykcm.cli import main
from tests.checkout import make_checkout

# Sphinx needs 6 seconds of CPU time, and other tests run meanwhile.
pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]

# The documents that have a page. Those of docs/ are added.
DOCUMENTS = {"README", "CHANGELOG", "CONTRIBUTING", "SECURITY", "bench/results"}
PAGES = {
    *("man/pykcmd.8", "man/pykcmctl.8", "man/pykcm-renew.8", "man/pykcm-audit.8"),
    *("man/pykcm.toml.5", "man/pykcm.7"),
}


class Page(HTMLParser):
    """The links and anchors of a page, and the files that a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "a" and (target := values.get("href")):
            self.links.append(target)
        elif target := values.get("src") or (values.get("href") if tag == "link" else None):
            self.loaded.append(target)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"), ["docs"], ["man"])


@pytest.fixture(scope="module")
def site(checkout: Path) -> Path:
    """The HTML in the default folder."""
    pytest.importorskip("myst_parser")
    done = run(checkout / "scripts/docs")
    folder = checkout / "build/docs"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"docs: {folder}/index.html\n", "")
    return folder


def test_other_files_are_kept(checkout: Path, tmp_path: Path) -> None:
    """A folder with other files is refused, and they are kept."""
    (tmp_path / "letter").touch()
    done = run(checkout / "scripts/docs", tmp_path)
    assert done.returncode == 1
    assert "has other files" in done.stderr
    assert (tmp_path / "letter").exists()


def test_help_names_the_default_folder(checkout: Path) -> None:
    done = run(checkout / "scripts/docs", "--help")
    assert done.returncode == 0
    assert "the default is ./build/docs" in done.stdout


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in site.rglob("*.html")}


def words_of(site: Path, page: str) -> str:
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_every_document_has_a_page(parsed: dict[str, Page]) -> None:
    """Each document in Markdown and each man page is a page, and there are no others."""
    documents = {path.removesuffix(".md") for path in DOCUMENTS if (ROOT / f"{path}.md").exists()}
    documents |= {f"docs/{path.stem}" for path in ROOT.glob("docs/*.md")}
    others = {f"commands/{name}" for name in main.cli.commands} | {
        f"options/{name}" for name in config.ALLOWED
    }
    made = {"index", "search", "genindex", "commands/index", "options/index"}
    assert set(parsed) == {f"{page}.html" for page in documents | PAGES | others | made}


@pytest.mark.parametrize("name", sorted(main.cli.commands))
def test_every_command_has_a_page(site: Path, name: str) -> None:
    """The page of a command has its usage and each of its options."""
    words = words_of(site, f"commands/{name}")
    assert f"pykcmctl {name}" in words
    options = [opt for each in main.cli.commands[name].params for opt in each.opts if opt.startswith("--")]
    assert [option for option in options if option not in words] == []


@pytest.mark.parametrize("name", sorted(config.ALLOWED))
def test_every_option_has_a_page(site: Path, name: str) -> None:
    """The page of an option has its name, its default and its valid values."""
    words = words_of(site, f"options/{name}")
    assert name in words
    assert "Default: " in words
    assert "Takes " in words


def test_search_finds_every_page(site: Path, parsed: dict[str, Page]) -> None:
    """The search index has all pages, and the name of each command and option leads to its page."""
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    assert {f"{name}.html" for name in index["docnames"]} == set(parsed) - {"search.html", "genindex.html"}
    titles = {
        title: {index["docnames"][number] for number, _ in places}
        for title, places in index["alltitles"].items()
    }
    for name in main.cli.commands:
        assert f"commands/{name}" in titles[f"pykcmctl {name}"]
    for name in config.ALLOWED:
        assert f"options/{name}" in titles[name]
    # A word in a document, stemmed.
    assert index["docnames"].index("docs/containers") in index["terms"]["namespac"]


def test_links_lead_somewhere(site: Path, parsed: dict[str, Page]) -> None:
    """Each link within the HTML has its page, and its anchor exists there."""
    broken = defaultdict(list)
    for name, page in parsed.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            other = parsed.get(str(target.resolve().relative_to(site)))
            if not target.is_file() or (parts.fragment and other and parts.fragment not in other.anchors):
                broken[name].append(link)
    assert broken == {}


def test_pages_load_nothing_from_elsewhere(parsed: dict[str, Page]) -> None:
    """A browser needs only the folder: no script, style or picture comes from another host."""
    assert {link for page in parsed.values() for link in page.loaded if urlsplit(link).netloc} == set()


def test_broken_links_are_errors(tmp_path: Path) -> None:
    """A link to a missing document, or to a missing heading, is an error that names it."""
    pytest.importorskip("myst_parser")
    shutil.copytree(ROOT / "man", tmp_path / "man", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    shutil.copyfile(ROOT / "docs/configuration.md", tmp_path / "docs/configuration.md")
    for path in re.findall(r"\]\((\w[\w-]*\.md)", (tmp_path / "docs/configuration.md").read_text()):
        (tmp_path / "docs" / path).touch()
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n")
    (tmp_path / "README.md").write_text("# pykcm\n[a](CHANGELOG.md#missing-heading) [b](docs/missing.md)\n")
    done = run(sys.executable, tmp_path / "man/website.py", tmp_path / "site")
    assert done.returncode == 1
    assert "missing-heading" in done.stderr
    assert "docs/missing.md" in done.stderr
