"""The documents name tests that exist, and their spelling is checked."""

import ast
import re
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("text", "status"),
    [("A ticket is retreived.\n", 65), ("A ticket is retrieved.\n", 0)],  # codespell:ignore
)
def test_spelling_is_checked(tmp_path: Path, text: str, status: int) -> None:
    """The spelling check of scripts/lint, with the project's settings, finds a mistake in a document."""
    document = tmp_path / "document.md"
    document.write_text(text)
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), str(document)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == status, done.stdout + done.stderr
