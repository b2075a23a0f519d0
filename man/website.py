"""Make HTML of the documents and the man pages, with a page for each command and each option.

usage: python man/website.py FOLDER

Sphinx reads one folder of sources. It is made in a temporary folder, with the documents at the same paths as
in the project: relative links hold. Warnings are errors.
"""

import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from conf import insert_generated, man_pages
from reference import GENERATED
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

from pykcm import __version__

ROOT = Path(__file__).resolve().parents[1]

# The documents in the order of the menu; those of docs/ follow in alphabetical order.
_FIRST = ("README.md", "docs/README.md", "docs/install.md", "docs/configuration.md", "docs/operations.md")
_LAST = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")

# A relative link of Markdown, without its anchor.
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)[^)]*\)")

_MANUAL = re.compile(r":manpage:`([\w.-]+)\((\d)\)`")

_CONFIGURATION = {
    "project": "pykcm",
    "version": __version__,
    "release": __version__,
    "root_doc": "index",
    "extensions": ["myst_parser"],
    # The anchors that a forge gives to headings.
    "myst_heading_anchors": 6,
    # Options and quotation marks must stay as they are typed.
    "smartquotes": False,
    "html_theme": "alabaster",
    "html_theme_options": {"page_width": "70em", "sidebar_width": "17em", "show_powered_by": False},
    "html_sidebars": {"**": ["about.html", "searchfield.html", "navigation.html", "relations.html"]},
    "html_show_sourcelink": False,
    "html_copy_source": False,
    "html_show_copyright": False,
}


def documents() -> list[str]:
    """The paths of all documents in Markdown, relative to the project."""
    of_docs = sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))
    paths = [*_FIRST, *(path for path in of_docs if path not in _FIRST), *_LAST, "bench/results.md"]
    return [path for path in paths if (ROOT / path).exists()]


def command_pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page that describes a command of pykcmctl."""
    examples = dict(_sections(GENERATED["examples"]()))
    for name, text in _sections(GENERATED["commands"]()):
        more = f"Examples\n--------\n\n{examples[name]}" if name in examples else ""
        index = f".. index:: single: {name} (command)\n\n"
        end = "Exit statuses and environment: :doc:`/man/pykcmctl.8`.\n"
        yield f"commands/{name}", f"{_heading(f'pykcmctl {name}')}{index}{text}\n{more}\n{end}"


def option_pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page that describes an option of pykcm.toml."""
    for part in re.split(r"^(?=[a-z0-9_]+$)", GENERATED["configuration"](), flags=re.MULTILINE):
        name, _, text = part.partition("\n")
        # Headings of groups precede the first option.
        if re.fullmatch("[a-z0-9_]+", name) and text.startswith("    "):
            body = textwrap.dedent(re.split(r"^(?=\S)", text, flags=re.MULTILINE)[0])
            index = f".. index:: single: {name} (option)\n\n"
            end = "Where options are set: :doc:`/man/pykcm.toml.5`.\n"
            yield f"options/{name}", f"{_heading(name)}{index}{body}\n{end}"


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the heading and the text of each section whose heading is underlined with `~`."""
    parts = re.split(r"^([a-z-]+)\n~+\n", text, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def _heading(title: str) -> str:
    return f"{title}\n{'=' * len(title)}\n\n"


def _menu(caption: str, pages: Iterable[str]) -> str:
    lines = "".join(f"   /{page.removesuffix('.md')}\n" for page in pages)
    return f".. toctree::\n   :caption: {caption}\n   :maxdepth: 1\n\n{lines}\n"


def write_sources(folder: Path) -> None:
    """Write all sources of Sphinx into this folder."""
    for path in documents():
        _copy(path, folder)
        text = (ROOT / path).read_text(encoding="utf-8")
        for link in _LINK.findall(text):
            target = (ROOT / path).parent / link
            if target.is_file() and target.suffix != ".md":
                _copy(str(target.resolve().relative_to(ROOT)), folder)
    manuals = [f"man/{source}" for source, *_ in man_pages]
    for path in manuals:
        _write(folder / f"{path}.rst", (ROOT / f"{path}.rst").read_text(encoding="utf-8"))
    reference = []
    for folder_name, title, pages in (
        ("commands", "Commands of pykcmctl", dict(command_pages())),
        ("options", "Options of pykcm.toml", dict(option_pages())),
    ):
        reference.append(f"{folder_name}/index")
        for path, text in pages.items():
            _write(folder / f"{path}.rst", text)
        _write(folder / f"{folder_name}/index.rst", f"{_heading(title)}{_menu(title, sorted(pages))}")
    menus = [
        _menu("Documents", documents()),
        _menu("Reference", [*reference, *manuals]),
    ]
    _write(folder / "index.rst", f"{_heading(f'pykcm {__version__}')}{''.join(menus)}* :ref:`genindex`\n")


def _copy(path: str, folder: Path) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / path, folder / path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def link_manuals(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace references to pykcm's own man pages by links."""
    own = {(name, str(section)): f"/man/{page}" for page, name, _, _, section in man_pages}

    def link(match: re.Match[str]) -> str:
        page = own.get((match[1], match[2]))
        return f":doc:`{match[1]}({match[2]}) <{page}>`" if page else match[0]

    source[0] = _MANUAL.sub(link, source[0])


def build(folder: Path) -> int:
    """Make the HTML in this folder; returns Sphinx's exit status."""
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary, "sources")
        write_sources(sources)
        app = Sphinx(
            sources,
            None,
            folder,
            Path(temporary, "doctrees"),
            "html",
            confoverrides=_CONFIGURATION,
            status=None,
            freshenv=True,
            warningiserror=True,
        )
        app.connect("source-read", insert_generated)
        # Also the references in generated text.
        app.connect("source-read", link_manuals, priority=600)
        app.build(force_all=True)
        return app.statuscode


if __name__ == "__main__":
    try:
        sys.exit(build(Path(sys.argv[1]).resolve()))
    except SphinxError as error:
        sys.exit(f"website: {error}")
