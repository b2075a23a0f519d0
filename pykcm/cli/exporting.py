"""export."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import click

from pykcm.cli import files, sealing, secrecy
from pykcm.cli.archive import pack_archive
from pykcm.cli.client import ControlClient
from pykcm.cli.names import UidType, ccache_shown
from pykcm.cli.output import print_json, print_line, shown_number
from pykcm.cli.progress import followed


@click.command("export")
@click.option("--uid", type=UidType(), help="The ccaches of this user alone.")
@click.option("--recipient", "keys", multiple=True, metavar="KEY", help="Encrypt for this age key (age1…).")
@secrecy.passphrase_file_option
@click.option("--plain", is_flag=True, help="Do not encrypt: whoever reads the file has all the tickets.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
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

    Without --recipient the passphrase is asked for. What is written has everything that is needed elsewhere:
    names, defaults, labels, and the tickets with their keys.
    """
    if [bool(keys), passphrase_file is not None, plain].count(True) > 1:
        raise click.UsageError("--recipient, --passphrase-file and --plain exclude each other")
    if as_json and file == files.STANDARD:
        raise click.UsageError("stdout cannot take both the export and JSON")
    # Asked first: without a daemon nobody need think of a passphrase.
    items = iter(client.ask("export", uid=uid))
    outgoing = _Outgoing(items, next(items)["count"])
    with secrecy.reported(), files.written(file, force=force) as target:
        recipients = secrecy.recipients(keys)
        passphrase = "" if keys or plain else secrecy.passphrase(passphrase_file, is_new=True)
        records = followed(outgoing, outgoing.expected, "exporting")
        pieces = pack_archive(socket.gethostname(), int(time.time()), outgoing.expected, records)
        if plain:
            target.writelines(pieces)
        elif recipients:
            sealing.seal_for(recipients, pieces, target.write)
        else:
            sealing.seal_with_passphrase(passphrase, pieces, target.write)
    _report(outgoing, as_json=as_json)


class _Outgoing:
    """The records that come from the daemon, counted, and what it leaves out."""

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
                yield item["ccache"]


def _report(outgoing: _Outgoing, *, as_json: bool) -> None:
    left_out = [each | {"name": ccache_shown(each["name"])} for each in outgoing.left_out]
    for each in left_out:
        print_line(f"left out {each['name']}: {each['reason']}", err=True)
    if as_json:
        print_json({"exported": outgoing.exported, "left_out": left_out})
    else:
        print_line(f"{shown_number(outgoing.exported, 'ccache')} exported", err=True)
    if left_out:
        raise click.exceptions.Exit(1)


COMMANDS = (export_command,)
