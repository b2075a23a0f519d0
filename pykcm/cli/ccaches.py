"""list, show, destroy, reap and switch."""

import base64
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from pykcm.cli.client import Answer, ControlClient
from pykcm.cli.names import CCacheType, UidType, ccache_shown, user_of, user_shown
from pykcm.cli.output import (
    Column,
    peeked,
    print_json,
    print_json_array,
    print_line,
    print_rows,
    shown_number,
    shown_size,
    shown_time,
)
from pykcm.cli.tickets import enctype_name, flag_names

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
@click.option("--uid", type=UidType(), help="Of this user alone.")
@click.option("--expired", is_flag=True, help="Only those whose tickets have all expired.")
@click.option("--label", is_flag=True, help="Also the SELinux label of whoever created each.")
@_json
@click.pass_obj
def list_command(
    client: ControlClient, uid: int | None, *, expired: bool, label: bool, as_json: bool
) -> None:
    """List everybody's ccaches: whose, what is in them, and until when.

    "*" marks a ccache that was chosen as the default. "+" marks the one that users get instead, if the chosen
    one is gone or none was chosen.
    """
    answer = client.ask("list", uid=uid, expired=expired)
    items = peeked(iter(answer))
    if as_json:
        print_json_array(_for_json(item["ccache"]) for item in items if "ccache" in item)
        return
    columns = [
        Column("User"),
        Column("UID", is_number=True),
        Column("Ccache"),
        Column("Principal"),
        Column(""),
        Column("Tickets", is_number=True),
        Column("Size", is_number=True),
        Column("TGT expires", is_time=True),
        Column("Renewable until", is_time=True),
        *([Column("Label")] if label else []),
    ]
    uses: list[dict[str, int]] = []
    print_rows(columns, _list_rows(items, uses, label=label))
    _print_totals(answer, uses)


def _for_json(row: dict[str, Any]) -> dict[str, Any]:
    """The keys that are promised, in their order."""
    return {
        "uid": row["uid"],
        "user": user_of(row["uid"]),
        "name": ccache_shown(row["name"]),
        "uuid": row["uuid"].hex(),
        "principal": row["principal"],
        "default": row["default"],
        "current_default": row["current_default"],
        "tickets": row["tickets"],
        "size": row["size"],
        "tgt_expires": row["tgt_expires"],
        "renew_till": row["renew_till"],
        "label": row["label"],
        "last_renewal": row["last_renewal"],
    }


def _list_rows(
    items: Iterable[dict[str, Any]], uses: list[dict[str, int]], *, label: bool
) -> Iterator[list[str]]:
    for item in items:
        if "user" in item:
            _note(uses, item["user"])
            continue
        row = item["ccache"]
        yield [
            user_of(row["uid"]) or "-",
            str(row["uid"]),
            ccache_shown(row["name"]),
            "(damaged)" if row["principal"] is None else row["principal"],
            _default_mark(row),
            str(row["tickets"]),
            shown_size(row["size"]),
            shown_time(row["tgt_expires"]),
            shown_time(row["renew_till"]),
            *([row["label"] or "-"] if label else []),
        ]


def _default_mark(row: dict[str, Any]) -> str:
    if row["default"]:
        return "*"
    return "+" if row["current_default"] else ""


# Those who have used most of what they may have are named below the list.
_MOST_NAMED = 3


def _share(use: dict[str, int]) -> float:
    """How much of its quota a user has used: the greater part of the two."""
    return max(
        use[used] / use[limit] if use[limit] else 0.0
        for used, limit in (("ccaches", "max_ccaches"), ("size", "max_size"))
    )


def _note(uses: list[dict[str, int]], use: dict[str, int]) -> None:
    if _share(use):
        uses.append(use)
        uses.sort(key=_share, reverse=True)
        del uses[_MOST_NAMED:]


def _print_totals(answer: Answer, uses: list[dict[str, int]]) -> None:
    summary = answer.summary
    print_line(
        f"{shown_number(summary['ccaches'], 'ccache')} of {shown_number(summary['users'], 'user')}, "
        f"{shown_size(summary['size'])}",
        err=True,
    )
    for use in uses:
        print_line(
            f"{user_of(use['uid']) or use['uid']} has used {_share(use):.0%} of the quota: "
            f"{shown_number(use['ccaches'], 'ccache')} of {use['max_ccaches'] or 'any number'}, "
            f"{shown_size(use['size'])} of {shown_size(use['max_size']) if use['max_size'] else 'any size'}",
            err=True,
        )


@click.command("show")
@click.argument("ccache", type=CCacheType())
@click.option(
    "--json", "as_json", is_flag=True, help="Print the stored document, session keys and tickets included."
)
@click.pass_obj
def show_command(client: ControlClient, ccache: bytes, *, as_json: bool) -> None:
    """Show what is in one ccache: its tickets, then the entries that are no tickets."""
    items = iter(client.ask("show", name=ccache, payload=as_json))
    head = next(items)["ccache"]
    credentials = [item["credential"] for item in items]
    if as_json:
        # Bytes that are no UTF-8 have code points of their own.
        print_json(_document(head, credentials))
        return
    print_line(f"Ccache:      {ccache_shown(head['name'])}{_shown_default(head)}")
    print_line(f"UUID:        {head['uuid'].hex()}")
    print_line(f"Owner:       {user_of(head['uid']) or '-'} (UID {head['uid']})")
    print_line(f"Principal:   {head['principal']}")
    print_line(f"KDC offset:  {head['kdc_offset']} s")
    if head["label"]:
        print_line(f"Label:       {head['label']}")
    print_line(f"Size:        {shown_size(head['size'])}")
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
        rows = ([each["server"], shown_size(each["size"])] for each in entries)
        print_rows([Column("Entry"), Column("Size", is_number=True)], rows)


def _ticket_row(credential: dict[str, Any]) -> list[str]:
    authtime, starttime, endtime, renew_till = credential["times"]
    return [
        credential["server"],
        credential["client"],
        enctype_name(credential["enctype"]),
        flag_names(credential["flags"]),
        shown_time(starttime or authtime),
        shown_time(endtime or None),
        shown_time(renew_till or None),
        shown_size(credential["size"]),
    ]


def _shown_default(head: dict[str, Any]) -> str:
    if head["default"]:
        return " (default)"
    return " (default, in place of the chosen one)" if head["current_default"] else ""


def _document(head: dict[str, Any], credentials: list[dict[str, Any]]) -> dict[str, Any]:
    """The KCM design page's: version, kdc_offset, principal, and creds with uuid and payload in base64."""
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


@click.command("destroy")
@click.argument("ccache", type=CCacheType(), required=False)
@click.option("--uid", type=UidType(), help="All ccaches of this user.")
@click.option("--expired", is_flag=True, help="Everybody's ccaches whose tickets have all expired.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_json
@click.pass_obj
def destroy_command(
    client: ControlClient, ccache: bytes | None, uid: int | None, *, expired: bool, yes: bool, as_json: bool
) -> None:
    """Destroy one ccache, or all of a user, or all that have expired. It asks first on a terminal."""
    if [ccache is not None, uid is not None, expired].count(True) != 1:
        raise click.UsageError("give one of CCACHE, --uid and --expired")
    what = (
        ccache_shown(ccache)
        if ccache is not None
        else f"all ccaches of {user_shown(uid)}"
        if uid is not None
        else "all ccaches whose tickets have expired"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody to ask whether to go on: give --yes")
        click.confirm(f"Destroy {what}?", abort=True, err=True)
    answer = client.ask("destroy", name=ccache, uid=uid, expired=expired)
    items = peeked(iter(answer))
    if as_json:
        print_json_array({"uid": each["uid"], "name": ccache_shown(each["name"])} for each in items)
        _warn_of_clock(answer.summary)
        return
    number = 0
    for each in items:
        print_line(f"destroyed {ccache_shown(each['name'])}")
        number += 1
    if not number:
        print_line("nothing to destroy", err=True)
    _warn_of_clock(answer.summary)


@click.command("reap")
@click.option("--trust-clock", is_flag=True, help="The clock is right, although it moved by days.")
@_json
@click.pass_obj
def reap_command(client: ControlClient, *, trust_clock: bool, as_json: bool) -> None:
    """Remove now what the daemon removes by itself every reap_interval: ccaches that expired long ago.

    After the clock has moved by more than a day, or the machine was off for so long, the daemon waits for an
    hour before it removes a ccache by the new time. With --trust-clock it does so from now on.
    """
    summary = client.run("reap", **({"trust_clock": True} if trust_clock else {}))
    if as_json:
        print_json(summary)
    else:
        print_line(f"{shown_number(summary['ccaches'], 'expired ccache')} removed")
        _warn_of_clock(summary)


def _warn_of_clock(summary: dict[str, Any]) -> None:
    """Say that fewer ccaches counted as expired than the clock says, where that is so."""
    doubt = summary.get("clock_doubt")
    if doubt is None:
        return
    moved = doubt["moved"]
    why = (
        "it is not known when the clock was last read"
        if moved is None
        else f"the clock moved {'forward' if moved > 0 else 'back'} by {abs(moved) / 86400:.1f} days"
    )
    print_line(
        f"{why}: for another {-(-doubt['left'] // 60)} min only ccaches count as expired that had expired "
        "before. If the clock is right: pykcmctl reap --trust-clock",
        err=True,
    )


@click.command("switch")
@click.option("--uid", type=UidType(), required=True, help="Whose default to change.")
@click.argument("ccache", type=CCacheType())
@_json
@click.pass_obj
def switch_command(client: ControlClient, uid: int, ccache: bytes, *, as_json: bool) -> None:
    """Make a ccache the default of its user, as kswitch would."""
    client.run("switch", uid=uid, name=ccache)
    if as_json:
        print_json({"uid": uid, "name": ccache_shown(ccache)})


COMMANDS = (list_command, show_command, destroy_command, reap_command, switch_command)
