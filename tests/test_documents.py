"""The documents name tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_REFERENCE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
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
