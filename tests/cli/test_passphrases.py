"""Passphrases from a terminal."""

import io
import sys

import click
import pytest

from pykcm.cli import passphrases


@pytest.mark.parametrize(
    "asked", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "\udcff"]
)
def test_passphrase_that_is_not_utf8_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: Exception | str
) -> None:
    """A terminal in Latin-1 sends such bytes."""

    def prompt(*_: object, **__: object) -> str:
        if isinstance(asked, Exception):
            raise asked
        return asked

    monkeypatch.setattr(click, "prompt", prompt)
    stdin = io.StringIO()
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(click.ClickException, match="not UTF-8"):
        passphrases.get_passphrase(None, is_new=True)
