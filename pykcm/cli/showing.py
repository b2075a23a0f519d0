"""The command show: what one ccache contains."""

import base64
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import click

from pykcm.cli.client import Answer, ControlClient
from pykcm.cli.list_columns import ccache_json, renewal_json, renewal_words
from pykcm.cli.names import format_ccache, format_user, naming_ccache
from pykcm.cli.output import (
    enctype_name,
    flag_names,
    format_expiry,
    format_iso,
    format_size,
    format_time,
    is_terminal,
    print_json,
    print_line,
)
from pykcm.cli.parameters import CCacheType
from pykcm.cli.special_entries import notes
from pykcm.cli.tables import Field, print_table
from pykcm.protocol.text import printable

_SERVICE = Field("Service", floors=(20, 12), importance=3)
_ENCTYPE = Field("Enctype", floors=(14, 9))


@click.command("show")
@click.argument("ccache", type=CCacheType())
@click.option("--wide", is_flag=True, help="Show more columns, and shorten nothing.")
@click.option("--times", is_flag=True, help="Show times as dates, not in words.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, without session keys and tickets.")
@click.option(
    "--with-secrets",
    is_flag=True,
    help="With --json: print the ccache as it is stored, with session keys and tickets.",
)
@click.pass_obj
def show_command(
    client: ControlClient, ccache: bytes, *, wide: bool, times: bool, as_json: bool, with_secrets: bool
) -> None:
    """Show the tickets of one ccache, and what is special about it.

    Flags are the letters of `klist -f`. Times are by this machine's clock.
    """
    if with_secrets and not as_json:
        raise click.UsageError("--with-secrets prints JSON; give --json as well")
    with naming_ccache(ccache):
        head, credentials = _fetch(client.ask("show", name=ccache, payload=with_secrets))
    if with_secrets:
        _warn_of_secrets()
        print_json(_stored_json(head, credentials))
        return
    if as_json:
        print_json(_for_json(head, credentials))
        return
    if is_terminal():
        _print_for_people(head, credentials, wide=wide, has_dates=times)
    else:
        _print_for_pipe(head, credentials)


def _fetch(answer: Answer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The ccache and its credentials, which have their bytes as `payload` if these were requested."""
    items = iter(answer)
    head: dict[str, Any] = next(items)["ccache"]
    credentials: list[dict[str, Any]] = []
    for item in items:
        if "credential" in item:
            credentials.append(item["credential"])
        else:
            credentials[-1]["payload"] = item["payload"]
    return head, credentials


def _print_for_people(
    head: dict[str, Any], credentials: list[dict[str, Any]], *, wide: bool, has_dates: bool
) -> None:
    for name, value in [*_header(head), *notes(head, credentials)]:
        for line in _hanging(f"{name + ':':<12} {printable(value)}"):
            print_line(line)
    tickets = [each for each in credentials if not each["configuration"]]
    print_line()
    print_line(f"Tickets: {len(tickets)}")
    now, offset = time.time(), head["kdc_offset"]

    def end(seconds: int) -> str:
        local = seconds - offset if seconds else None
        return format_time(local) if has_dates else format_expiry(local, now)

    fields = [_SERVICE, Field("Expires"), Field("Renewable"), Field("Flags"), _ENCTYPE]
    if wide:
        fields += [Field("Client"), Field("Valid from"), Field("Size", is_number=True)]
    rows = []
    for each in tickets:
        authtime, starttime, endtime, renew_till = each["times"]
        row = [each["server"], end(endtime), _renewable(end(renew_till))]
        row += [flag_names(each["flags"]) or "-", enctype_name(each["enctype"])]
        if wide:
            begin = starttime or authtime
            row += [each["client"], format_time(begin - offset if begin else None), format_size(each["size"])]
        rows.append(row)
    print_table(fields, rows, shortens=not wide)


def _hanging(text: str) -> list[str]:
    """The lines of a text that fit the terminal; further lines are indented, and no name is broken."""
    columns = shutil.get_terminal_size().columns
    return textwrap.wrap(
        text, max(columns, 40), subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False
    )


# Renewable until: "for 6 d" is shorter than, and not confused with, the time in which a ticket expires.
def _renewable(text: str) -> str:
    return f"for {text[3:]}" if text.startswith("in ") else "no longer" if text.endswith(" ago") else text


def _header(head: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Ccache", f"{format_ccache(head['name'])}{_default_note(head)}"
    yield "Principal", head["principal"]
    yield "Owner", format_user(head["uid"])
    yield "Size", format_size(head["size"])
    yield "UUID", head["uuid"].hex()
    if head["label"]:
        yield "Label", head["label"]
    if "renewal" in head:
        yield "Renewal", renewal_words(head["renewal"])


def _print_for_pipe(head: dict[str, Any], credentials: list[dict[str, Any]]) -> None:
    """Tab-separated lines; the first cell says what the line is."""
    lines = [[name.lower(), value] for name, value in _header(head)]
    lines += [["kdc offset", str(head["kdc_offset"])]]
    lines += [[name.lower(), value] for name, value in notes(head, credentials)]
    for each in credentials:
        times = [format_iso(seconds - head["kdc_offset"] if seconds else None) for seconds in each["times"]]
        lines.append(
            [
                "entry" if each["configuration"] else "ticket",
                each["server"],
                each["client"],
                *times[1:],
                flag_names(each["flags"]) or "-",
                enctype_name(each["enctype"]),
                str(each["size"]),
            ]
        )
    print_table([], lines)


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
        **ccache_json(head),
        "kdc_offset": head["kdc_offset"],
        "credentials": [_credential_json(each) for each in credentials],
        **renewal_json(head),
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
