"""The command export."""

import socket
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import click

from pykcm.cli import files
from pykcm.cli.archive import pack_archive
from pykcm.cli.client import ControlClient
from pykcm.cli.encryption import encrypt_for, encrypt_with_passphrase
from pykcm.cli.names import format_ccache
from pykcm.cli.output import format_count, print_json, print_line, show_progress
from pykcm.cli.parameters import UidType
from pykcm.cli.passphrases import get_passphrase, get_recipients, passphrase_file_option
from pykcm.control.messages import ControlError, ErrorCode


@click.command("export")
@click.option("--user", "--uid", "uid", type=UidType(), help="Only the ccaches of this user.")
@click.option("--recipient", "keys", multiple=True, metavar="KEY", help="Encrypt for this age key (age1…).")
@passphrase_file_option
@click.option(
    "--plain", is_flag=True, help="Do not encrypt: anyone who can read the file has all the tickets."
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("file")
@click.pass_obj
def export_command(
    client: ControlClient,
    uid: int | None,
    keys: tuple[str, ...],
    passphrase_file: str | None,
    file: str,
    *,
    plain: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write ccaches to FILE, encrypted; `-` is stdout.

    Without --recipient it asks for a passphrase. An export holds everything that another host needs: names,
    defaults, labels, and the tickets with their keys.
    """
    if [bool(keys), passphrase_file is not None, plain].count(True) > 1:
        raise click.UsageError("give only one of --recipient, --passphrase-file and --plain")
    if as_json and file == files.STANDARD:
        raise click.UsageError(
            "stdout cannot take both the export and JSON: name a file, or leave out --json"
        )
    # First of all: without a daemon, the user is not asked for a passphrase.
    answer = client.ask("export", uid=uid)
    try:
        items = iter(answer)
        records = _ExportedRecords(items, next(items)["count"])
        _write(records, file, get_recipients(keys), passphrase_file, is_plain=plain, force=force)
    finally:
        answer.close()
    _report(records, as_json=as_json)


def _write(
    records: "_ExportedRecords",
    file: str,
    recipients: Sequence[Any],
    passphrase_file: str | None,
    *,
    is_plain: bool,
    force: bool,
) -> None:
    attempt = f"{'stdout' if file == files.STANDARD else file}: cannot be written"
    with files.report_file_errors(attempt), files.open_output(file, force=force) as target:
        passphrase = "" if recipients or is_plain else get_passphrase(passphrase_file, is_new=True)
        counted = show_progress(records, records.expected, "exporting")
        pieces = pack_archive(socket.gethostname(), int(time.time()), records.expected, counted)
        if is_plain:
            target.writelines(pieces)
        elif recipients:
            encrypt_for(recipients, pieces, target.write)
        else:
            encrypt_with_passphrase(passphrase, pieces, target.write)


class _ExportedRecords:
    """Iterates over the records that the daemon sends; counts them, and collects the ccaches left out."""

    def __init__(self, items: Iterator[Any], expected: int) -> None:
        self.expected = expected
        self.exported = 0
        self.left_out: list[dict[str, Any]] = []
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            if "left_out" in item:
                self.left_out.append(item["left_out"])
            else:
                self.exported += 1
                ccache = item["ccache"]
                number = ccache["credentials"]
                credentials = [each["credential"] for each in islice(self._items, number)]
                if len(credentials) != number:
                    raise ControlError(ErrorCode.VERSION, "the daemon's answer lacks credentials")
                yield ccache | {"credentials": credentials}


def _report(records: _ExportedRecords, *, as_json: bool) -> None:
    left_out = [each | {"name": format_ccache(each["name"])} for each in records.left_out]
    for each in left_out:
        print_line(f"left out {each['name']}: {each['reason']}", err=True)
    if as_json:
        print_json({"exported": records.exported, "left_out": left_out})
    else:
        print_line(f"{format_count(records.exported, 'ccache')} exported", err=True)
    if left_out:
        raise click.exceptions.Exit(1)


COMMANDS = (export_command,)
