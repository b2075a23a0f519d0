"""Passphrases and keys from whoever runs a command: asked for on the terminal or read from files."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from pykcm.cli import sealing
from pykcm.cli.archive import ArchiveError
from pykcm.cli.files import FileError, read_key_file
from pykcm.streams import output_error

passphrase_file_option = click.option(
    "--passphrase-file", metavar="PATH", help="Read the passphrase from the first line of this file."
)


@contextmanager
def reported() -> Iterator[None]:
    """What is wrong with a file ends the command with one line that says so; for files alone."""
    try:
        yield
    except (ArchiveError, FileError, sealing.SealError) as error:
        raise click.ClickException(str(error)) from None
    except ConnectionError:
        # The daemon's: no fault of a file.
        raise
    except OSError as error:
        if error is output_error():
            raise
        name = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{name}{error.strerror or error}") from None


def passphrase(path: str | None, *, is_new: bool) -> str:
    """From the file, or from the terminal, twice where it is new."""
    if path is not None:
        with reported():
            given = read_key_file(path).partition("\n")[0].removesuffix("\r")
        if not given:
            raise click.ClickException(f"{path}: its first line is empty")
        return given
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the passphrase on: give --passphrase-file")
    try:
        asked: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
        asked.encode()
    except UnicodeError:
        raise click.ClickException("the passphrase is no UTF-8: see what `locale charmap` says") from None
    return asked


def recipients(keys: Sequence[str]) -> list[Any]:
    with reported():
        return [sealing.recipient(key) for key in keys]


def unlock(sealed: sealing.Sealed, identity_files: Sequence[str], passphrase_file: str | None) -> None:
    """Have the file decrypted with what was given; ask for what was not and is needed."""
    if not sealed.needs:
        if identity_files or passphrase_file:
            raise click.ClickException("the file is not encrypted, and what was given says that it should be")
        return
    if sealed.needs == "identity":
        if not identity_files:
            raise click.UsageError("the file is encrypted for a key: give --identity")
        with reported():
            sealed.unlock([key for path in identity_files for key in sealing.identities(read_key_file(path))])
        return
    given = passphrase(passphrase_file, is_new=False)
    with reported():
        sealed.unlock_with_passphrase(given)
