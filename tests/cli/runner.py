"""Commands of pykcmctl in the process of the tests."""

from inspect import signature
from typing import Any

from click.testing import CliRunner


def separate_runner() -> CliRunner:
    """Return a runner whose results have stdout and stderr apart: click before 8.2 mixes them by default."""
    options: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(**options)
