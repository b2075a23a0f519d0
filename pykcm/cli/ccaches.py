"""The commands list, destroy, reap and switch."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from pykcm.cli.client import Answer, ControlClient
from pykcm.cli.names import CCacheType, UidType, format_ccache, format_user, user_name
from pykcm.cli.output import (
    Column,
    fetch_first,
    format_count,
    format_size,
    format_time,
    print_json,
    print_json_array,
    print_line,
    print_rows,
)

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
@click.option("--uid", type=UidType(), help="Only the ccaches of this user.")
@click.option("--expired", is_flag=True, help="Only ccaches whose tickets have all expired.")
@click.option("--label", is_flag=True, help="Also show the SELinux label of each ccache.")
@_json
@click.pass_obj
def list_command(
    client: ControlClient, uid: int | None, *, expired: bool, label: bool, as_json: bool
) -> None:
    """List the ccaches of all users with their expiry times.

    "*" marks a ccache that was chosen as the default. "+" marks the one that users get instead, if the chosen
    one is gone or none was chosen.
    """
    answer = client.ask("list", uid=uid, expired=expired)
    items = fetch_first(iter(answer))
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
    """The keys that pykcmctl(8) documents, in that order."""
    return {
        "uid": row["uid"],
        "user": user_name(row["uid"]),
        "name": format_ccache(row["name"]),
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
            _keep_largest(uses, item["user"])
            continue
        row = item["ccache"]
        yield [
            user_name(row["uid"]) or "-",
            str(row["uid"]),
            format_ccache(row["name"]),
            "(damaged)" if row["principal"] is None else row["principal"],
            _default_mark(row),
            str(row["tickets"]),
            format_size(row["size"]),
            format_time(row["tgt_expires"]),
            format_time(row["renew_till"]),
            *([row["label"] or "-"] if label else []),
        ]


def _default_mark(row: dict[str, Any]) -> str:
    if row["default"]:
        return "*"
    return "+" if row["current_default"] else ""


# Users shown below the list, by the share of their quota that they use.
_USERS_SHOWN = 3


def _quota_share(use: dict[str, int]) -> float:
    """The used share of a user's quota: of ccaches or of size, whichever is larger."""
    return max(
        use[used] / use[limit] if use[limit] else 0.0
        for used, limit in (("ccaches", "max_ccaches"), ("size", "max_size"))
    )


def _keep_largest(uses: list[dict[str, int]], use: dict[str, int]) -> None:
    if _quota_share(use):
        uses.append(use)
        uses.sort(key=_quota_share, reverse=True)
        del uses[_USERS_SHOWN:]


def _print_totals(answer: Answer, uses: list[dict[str, int]]) -> None:
    summary = answer.summary
    print_line(
        f"{format_count(summary['ccaches'], 'ccache')} of {format_count(summary['users'], 'user')}, "
        f"{format_size(summary['size'])}",
        err=True,
    )
    for use in uses:
        print_line(
            f"{user_name(use['uid']) or use['uid']} has used {_quota_share(use):.0%} of the quota: "
            f"{format_count(use['ccaches'], 'ccache')} of {use['max_ccaches'] or 'any number'}, "
            f"{format_size(use['size'])} of "
            f"{format_size(use['max_size']) if use['max_size'] else 'any size'}",
            err=True,
        )


@click.command("destroy")
@click.argument("ccache", type=CCacheType(), required=False)
@click.option("--uid", type=UidType(), help="All ccaches of this user.")
@click.option("--expired", is_flag=True, help="All users' ccaches whose tickets have all expired.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@_json
@click.pass_obj
def destroy_command(
    client: ControlClient, ccache: bytes | None, uid: int | None, *, expired: bool, yes: bool, as_json: bool
) -> None:
    """Destroy one ccache, those of a user, or all expired ones.

    On a terminal it asks for confirmation first.
    """
    if [ccache is not None, uid is not None, expired].count(True) != 1:
        raise click.UsageError("give exactly one of CCACHE, --uid and --expired")
    target = (
        format_ccache(ccache)
        if ccache is not None
        else f"all ccaches of {format_user(uid)}"
        if uid is not None
        else "all ccaches whose tickets have expired"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("no terminal to ask for confirmation on: give --yes")
        click.confirm(f"Destroy {target}?", abort=True, err=True)
    answer = client.ask("destroy", name=ccache, uid=uid, expired=expired)
    items = fetch_first(iter(answer))
    if as_json:
        print_json_array({"uid": each["uid"], "name": format_ccache(each["name"])} for each in items)
        _warn_of_clock(answer.summary)
        return
    count = 0
    for each in items:
        print_line(f"destroyed {format_ccache(each['name'])}")
        count += 1
    if not count:
        print_line("nothing to destroy", err=True)
    _warn_of_clock(answer.summary)


@click.command("reap")
@click.option("--trust-clock", is_flag=True, help="Tell the daemon that the clock is right.")
@_json
@click.pass_obj
def reap_command(client: ControlClient, *, trust_clock: bool, as_json: bool) -> None:
    """Remove long-expired ccaches now.

    The daemon does this every reap_interval by itself. If the clock moved by more than a day, or the
    machine was off for that long, the daemon waits for an hour before it removes ccaches by the new time.
    With --trust-clock it does not wait.
    """
    summary = client.run("reap", **({"trust_clock": True} if trust_clock else {}))
    if as_json:
        print_json(summary)
    else:
        print_line(f"{format_count(summary['ccaches'], 'expired ccache')} removed")
        _warn_of_clock(summary)


def _warn_of_clock(summary: dict[str, Any]) -> None:
    """If the daemon doubts its clock, say that fewer ccaches count as expired."""
    doubt = summary.get("clock_doubt")
    if doubt is None:
        return
    moved = doubt["moved"]
    reason = (
        "the daemon does not know when the clock was last read"
        if moved is None
        else f"the clock moved {'forward' if moved > 0 else 'back'} by {abs(moved) / 86400:.1f} days"
    )
    print_line(
        f"{reason}: for another {-(-doubt['left'] // 60)} min a ccache counts as expired only if it had "
        "expired before. If the clock is right: pykcmctl reap --trust-clock",
        err=True,
    )


@click.command("switch")
@click.option("--uid", type=UidType(), required=True, help="The user whose default ccache changes.")
@click.argument("ccache", type=CCacheType())
@_json
@click.pass_obj
def switch_command(client: ControlClient, uid: int, ccache: bytes, *, as_json: bool) -> None:
    """Make a ccache the default ccache of its user, as kswitch does."""
    client.run("switch", uid=uid, name=ccache)
    if as_json:
        print_json({"uid": uid, "name": format_ccache(ccache)})


COMMANDS = (list_command, destroy_command, reap_command, switch_command)
