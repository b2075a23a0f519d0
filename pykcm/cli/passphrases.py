"""Passphrases and keys of exports: from files, or asked for on the terminal."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from pykcm.cli.encryption import EncryptedFile, EncryptionError, parse_identities, parse_recipient
from pykcm.cli.files import read_key_file, report_file_errors

passphrase_file_option = click.option(
    "--passphrase-file", metavar="PATH", help="Read the passphrase from the first line of this file."
)


def get_passphrase(path: str | None, *, is_new: bool) -> str:
    """The first line of the file; without a file, ask on the terminal, twice for a new passphrase."""
    if path is not None:
        with report_file_errors(f"{path}: the passphrase cannot be read"):
            passphrase = read_key_file(path).partition("\n")[0].removesuffix("\r")
        if not passphrase:
            raise click.ClickException(f"{path}: the first line is empty; write the passphrase there")
        return passphrase
    if not sys.stdin.isatty():
        raise click.UsageError(
            "nobody can type the passphrase, because stdin is no terminal; give --passphrase-file"
        )
    try:
        answer: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
        answer.encode()
    except UnicodeError:
        raise click.ClickException(
            "passphrase: is not UTF-8; compare the terminal's encoding with `locale charmap`"
        ) from None
    return answer


def get_recipients(keys: Sequence[str]) -> list[Any]:
    with report_file_errors("--recipient: cannot be used"):
        return [parse_recipient(key) for key in keys]


def unlock(file: EncryptedFile, identity_files: Sequence[str], passphrase_file: str | None) -> None:
    """Unlock the file with the given options; ask for the passphrase if there is no file with it."""
    if not file.needs:
        if identity_files or passphrase_file:
            raise click.ClickException(
                "the file is not encrypted; leave out --identity and --passphrase-file if you trust it"
            )
        return
    if file.needs == "identity":
        if not identity_files:
            raise click.ClickException("the file is encrypted for a key; give --identity")
        file.unlock([key for path in identity_files for key in _read_identities(path)])
        return
    passphrase = get_passphrase(passphrase_file, is_new=False)
    with report_file_errors("the export cannot be read"):
        file.unlock_with_passphrase(passphrase)


def _read_identities(path: str) -> list[Any]:
    with report_file_errors(f"{path}: the key cannot be read"):
        text = read_key_file(path)
        try:
            return parse_identities(text)
        except EncryptionError as error:
            raise EncryptionError(f"{path}: {error}") from None
