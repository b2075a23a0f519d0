"""The command show: what one ccache contains."""

import base64
import sys
from typing import Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.names import CCacheType, format_ccache, user_name
from pykcm.cli.output import (
    Column,
    enctype_name,
    flag_names,
    format_size,
    format_time,
    print_json,
    print_line,
    print_rows,
)


@click.command("show")
@click.argument("ccache", type=CCacheType())
@click.option("--json", "as_json", is_flag=True, help="Print JSON, without session keys and tickets.")
@click.option(
    "--with-secrets",
    is_flag=True,
    help="With --json: print the ccache as it is stored, with session keys and tickets.",
)
@click.pass_obj
def show_command(client: ControlClient, ccache: bytes, *, as_json: bool, with_secrets: bool) -> None:
    """Show the tickets and the other entries of one ccache."""
    if with_secrets and not as_json:
        raise click.UsageError("--with-secrets prints JSON: give --json as well")
    items = iter(client.ask("show", name=ccache, payload=with_secrets))
    head = next(items)["ccache"]
    credentials: list[dict[str, Any]] = []
    for item in items:
        if "credential" in item:
            credentials.append(item["credential"])
        else:
            credentials[-1]["payload"] = item["payload"]
    if with_secrets:
        _warn_of_secrets()
        print_json(_stored_json(head, credentials))
        return
    if as_json:
        print_json(_for_json(head, credentials))
        return
    print_line(f"Ccache:      {format_ccache(head['name'])}{_default_note(head)}")
    print_line(f"UUID:        {head['uuid'].hex()}")
    print_line(f"Owner:       {user_name(head['uid']) or '-'} (UID {head['uid']})")
    print_line(f"Principal:   {head['principal']}")
    print_line(f"KDC offset:  {head['kdc_offset']} s")
    if head["label"]:
        print_line(f"Label:       {head['label']}")
    print_line(f"Size:        {format_size(head['size'])}")
    tickets = [each for each in credentials if not each["configuration"]]
    entries = [each for each in credentials if each["configuration"]]
    print_line()
    print_line(f"Tickets: {len(tickets)}")
    print_rows(
        [
            Column("Server"),
            Column("Client"),
            Column("Enctype"),
            Column("Flags"),
            Column("Valid from", is_time=True),
            Column("Expires", is_time=True),
            Column("Renewable until", is_time=True),
            Column("Size", is_number=True),
        ],
        map(_ticket_row, tickets),
    )
    if entries:
        print_line()
        print_line(f"Other entries: {len(entries)}")
        rows = ([each["server"], format_size(each["size"])] for each in entries)
        print_rows([Column("Entry"), Column("Size", is_number=True)], rows)


def _ticket_row(credential: dict[str, Any]) -> list[str]:
    authtime, starttime, endtime, renew_till = credential["times"]
    return [
        credential["server"],
        credential["client"],
        enctype_name(credential["enctype"]),
        flag_names(credential["flags"]),
        format_time(starttime or authtime),
        format_time(endtime or None),
        format_time(renew_till or None),
        format_size(credential["size"]),
    ]


def _default_note(head: dict[str, Any]) -> str:
    if head["default"]:
        return " (default)"
    return " (default, in place of the chosen one)" if head["current_default"] else ""


def _warn_of_secrets() -> None:
    """On a terminal, say that the output is secret. Scripts know what they have asked for."""
    if sys.stdout.isatty() or sys.stderr.isatty():
        print_line(
            "pykcmctl: this output contains session keys and tickets: anyone who gets it can use them until "
            "they expire; do not paste it, and delete its file after use",
            err=True,
        )


def _for_json(head: dict[str, Any], credentials: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys that pykcmctl(8) documents, in that order. Nothing in it is secret."""
    return {
        "uid": head["uid"],
        "user": user_name(head["uid"]),
        "name": format_ccache(head["name"]),
        "uuid": head["uuid"].hex(),
        "principal": head["principal"],
        "default": head["default"],
        "current_default": head["current_default"],
        "tickets": head["tickets"],
        "size": head["size"],
        "tgt_expires": head["tgt_expires"],
        "renew_till": head["renew_till"],
        "label": head["label"],
        "last_renewal": head["last_renewal"],
        "kdc_offset": head["kdc_offset"],
        "credentials": [_credential_json(each) for each in credentials],
    }


def _credential_json(credential: dict[str, Any]) -> dict[str, Any]:
    """One credential; 0 stands for a time that is not set, and becomes null."""
    times = zip(("authtime", "starttime", "endtime", "renew_till"), credential["times"], strict=True)
    return {
        "uuid": credential["uuid"].hex(),
        "client": credential["client"],
        "server": credential["server"],
        "configuration": credential["configuration"],
        "enctype": enctype_name(credential["enctype"]),
        "flags": flag_names(credential["flags"]),
        **{name: seconds or None for name, seconds in times},
        "size": credential["size"],
    }


def _stored_json(head: dict[str, Any], credentials: list[dict[str, Any]]) -> dict[str, Any]:
    """The ccache in sssd-kcm's JSON format. Bytes that are not UTF-8 become surrogates."""
    return {
        "version": 1,
        "kdc_offset": head["kdc_offset"],
        "principal": {
            "type": head["principal_type"],
            "realm": head["realm"].decode(errors="surrogateescape"),
            "components": [each.decode(errors="surrogateescape") for each in head["components"]],
        },
        "creds": [
            {"uuid": each["uuid"].hex(), "payload": base64.b64encode(each["payload"]).decode()}
            for each in credentials
        ],
    }


COMMANDS = (show_command,)
