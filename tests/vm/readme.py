"""The commands in a document."""

import re
import textwrap
from pathlib import Path

# Blocks that are indented by at least four more than the paragraph or list item before them.
_BLOCK = re.compile(r"(?<=\n\n)((?: {4,}\S.*\n)(?: {4,}.*\n|\n(?= {4}))*)")


def commands_of(document: Path, section: str) -> list[str]:
    """Return the indented blocks of a section without its subsections, in order: all of them are commands."""
    text = document.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(section)}\n(.*?)(?=^#)", text + "#", re.MULTILINE | re.DOTALL)
    assert found is not None, f"{document} has no section {section}"
    return [textwrap.dedent(block) for block in _BLOCK.findall("\n" + found[1])]
