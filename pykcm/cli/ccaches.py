"""The commands destroy, reap and switch."""

import sys
from typing import Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.names import CCacheType, UidType, format_ccache, format_user
from pykcm.cli.output import (
    fetch_first,
    format_count,
    print_json,
    print_json_array,
    print_line,
)
from pykcm.peer.names import collection_of

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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
@click.option("--uid", type=UidType(), help="The user whose default ccache changes; not needed.")
@click.argument("ccache", type=CCacheType())
@_json
@click.pass_obj
def switch_command(client: ControlClient, uid: int | None, ccache: bytes, *, as_json: bool) -> None:
    """Make a ccache the default ccache of its user, as kswitch does."""
    uid = collection_of(ccache) if uid is None else uid
    client.run("switch", uid=uid, name=ccache)
    if as_json:
        print_json({"uid": uid, "name": format_ccache(ccache)})


COMMANDS = (destroy_command, reap_command, switch_command)
