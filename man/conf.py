"""Configuration of Sphinx for the man pages; options come from the code and docs/configuration.md."""

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
# Options and quotation marks must stay as they are typed.
smartquotes = False
man_make_section_directory = True
man_pages = [
    ("pykcmd.8", "pykcmd", "keeps the credential caches of Kerberos (a KCM server)", "", 8),
    ("pykcm-renew.8", "pykcm-renew", "renews the Kerberos tickets that pykcmd keeps", "", 8),
    ("pykcm-audit.8", "pykcm-audit", "writes SELinux denials of pykcmd to the audit log", "", 8),
    ("pykcmctl.8", "pykcmctl", "administers pykcm", "", 8),
    ("pykcm.toml.5", "pykcm.toml", "configuration of pykcmd", "", 5),
    ("pykcm.7", "pykcm", "a credential-cache server for Kerberos", "", 7),
]


def insert_generated(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace each line `.. generated: NAME` by text from the code."""
    for name, make in GENERATED.items():
        line = f".. generated: {name}\n"
        if line in source[0]:
            source[0] = source[0].replace(line, make())


def setup(app: Sphinx) -> None:
    app.connect("source-read", insert_generated)
