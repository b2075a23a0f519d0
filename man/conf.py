"""Sphinx's configuration: the man pages, with their tables of options taken from the code and README."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from reference import GENERATED

from pykcm import __version__

project = "pykcm"
version = release = __version__
root_doc = "pykcm.7"
exclude_patterns = ["commands/*"]
# As they are typed: -- is no dash, and a quotation mark is the one of the shell.
smartquotes = False
man_make_section_directory = True
man_pages = [
    ("pykcmd.8", "pykcmd", "keeps the credential caches of Kerberos (a KCM server)", "", 8),
    ("pykcmctl.8", "pykcmctl", "administers pykcm", "", 8),
    ("pykcm.toml.5", "pykcm.toml", "configuration of pykcmd", "", 5),
    ("pykcm.7", "pykcm", "a credential-cache server for Kerberos", "", 7),
]


def insert_generated(app: Sphinx, docname: str, source: list[str]) -> None:
    """In place of a line `.. generated: NAME` stands what the code says."""
    for name, make in GENERATED.items():
        line = f".. generated: {name}\n"
        if line in source[0]:
            source[0] = source[0].replace(line, make())


def setup(app: Sphinx) -> None:
    app.connect("source-read", insert_generated)
