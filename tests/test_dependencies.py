"""The versions of dependencies that pip may install."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        # Debian 13 has 5.6.5. CVE-2025-64076, CVE-2025-68131 and CVE-2026-26209 are mended in 5.9.
        ("cbor2", ["5.6.5", "5.9.0", "6.3.0"], ["5.6.4", "5.7.0", "5.7.1", "5.8.0"]),
        # CVE-2024-56327
        ("pyrage", ["1.2.3", "1.4.0"], ["1.2.1", "1.2.2"]),
    ],
)
def test_versions_with_known_faults_are_not_installed(
    name: str, taken: list[str], refused: list[str]
) -> None:
    """Vulnerable versions are excluded, except one of a distribution whose faults pykcm cannot reach."""
    declared = map(Requirement, tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"])
    (specifier,) = (each.specifier for each in declared if each.name == name)
    assert [version for version in taken if version not in specifier] == []
    assert [version for version in refused if version in specifier] == []
