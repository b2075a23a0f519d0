"""The commands destroy, reap and switch."""

import sys
from contextlib import nullcontext
from typing import Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.names import format_ccache, format_user, naming_ccache
from pykcm.cli.output import (
    fetch_first,
    format_count,
    print_json,
    print_json_array,
    print_line,
)
from pykcm.cli.parameters import CCacheType, UidType
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.peer.names import collection_of

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("destroy")
@click.argument("ccache", type=CCacheType(), required=False)
@click.option("--user", "--uid", "uid", type=UidType(), help="All ccaches of this user.")
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
        raise click.UsageError("give exactly one of CCACHE, --user and --expired")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can confirm it, because stdin is no terminal; give --yes")
        question = _question(client, ccache, uid, expired=expired)
        if question is None:
            print_line("nothing to destroy", err=True)
            return
        click.confirm(question, abort=True, err=True)
    with nullcontext() if ccache is None else naming_ccache(ccache):
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


def _question(client: ControlClient, ccache: bytes | None, uid: int | None, *, expired: bool) -> str | None:
    """The question before destroying, with what would be destroyed; None if there is nothing."""
    if ccache is not None:
        return f"Destroy {_content(client, ccache)}?"
    number, uids = 0, set()
    for item in client.ask("list", uid=uid, expired=expired):
        if "ccache" in item:
            number += 1
            uids.add(item["ccache"]["uid"])
    if not number:
        return None
    if uid is not None:
        return f"Destroy {format_count(number, 'ccache')} of {format_user(uid)}?"
    return f"Destroy {format_count(number, 'expired ccache')} of {format_count(len(uids), 'user')}?"


def _content(client: ControlClient, name: bytes) -> str:
    try:
        with naming_ccache(name):
            *_, found = [item["ccache"] for item in client.ask("show", name=name) if "ccache" in item]
    except ControlError as error:
        if error.code != ErrorCode.STORE:
            raise
        # A damaged one can be destroyed.
        return f"{format_ccache(name)}, which cannot be read"
    tickets = format_count(found["tickets"], "ticket")
    return f"{format_ccache(name)} of {format_user(found['uid'])}, with {tickets}"


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
@click.option(
    "--user", "--uid", "uid", type=UidType(), help="The user whose default ccache changes; not needed."
)
@click.argument("ccache", type=CCacheType())
@_json
@click.pass_obj
def switch_command(client: ControlClient, uid: int | None, ccache: bytes, *, as_json: bool) -> None:
    """Make a ccache the default ccache of its user, as kswitch does."""
    uid = collection_of(ccache) if uid is None else uid
    with naming_ccache(ccache):
        client.run("switch", uid=uid, name=ccache)
    if as_json:
        print_json({"uid": uid, "name": format_ccache(ccache)})


COMMANDS = (destroy_command, reap_command, switch_command)
