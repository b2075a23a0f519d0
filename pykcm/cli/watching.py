"""watch and trace: lines as things happen."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.names import UidType, ccache_shown, user_of
from pykcm.cli.output import print_json, print_line
from pykcm.cli.tickets import enctype_name, flag_names
from pykcm.protocol.text import escape

# In seconds: how long to wait for the daemon to be there again.
_PAUSE = 1.0

_uid = click.option("--uid", type=UidType(), help="Of this user alone.")
_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object on each line.")
_reconnect = click.option(
    "--reconnect", is_flag=True, help="Go on when the daemon has ended and is there again."
)

Item = dict[str, Any]
Line = Callable[[Item], str]


@click.command("watch")
@_uid
@_json
@_reconnect
@click.pass_obj
def watch_command(client: ControlClient, uid: int | None, *, as_json: bool, reconnect: bool) -> None:
    """Show what happens to ccaches, as it happens, until Ctrl-C.

    Ccaches that are created, replaced, destroyed, expired or evicted (for room), defaults that change, and
    what is refused. When more happens than is read here, a line says how much was lost.
    """
    _follow(client, "watch", uid, None if as_json else _event_line, reconnect=reconnect)


@click.command("trace")
@_uid
@_json
@_reconnect
@click.pass_obj
def trace_command(client: ControlClient, uid: int | None, *, as_json: bool, reconnect: bool) -> None:
    """Show each request of a Kerberos client with its reply, in words, until Ctrl-C.

    Time, user, process, operation, ccache, result, duration, and what was asked and answered. No key or
    ticket is shown, nor does the daemon send any.
    """
    _follow(client, "trace", uid, None if as_json else _exchange_line, reconnect=reconnect)


def _follow(
    client: ControlClient,
    request: str,
    uid: int | None,
    line: Line | None,
    *,
    reconnect: bool,
) -> None:
    """Show each item as `line` has it, or as JSON where that is None."""
    try:
        for item in _items(client, request, uid, reconnect=reconnect):
            if line is None:
                print_json(_json_item(item), indent=None)
            else:
                print_line(line(item))
            sys.stdout.flush()
    except KeyboardInterrupt:
        # What goes on until it is ended has ended well.
        return


def _items(client: ControlClient, request: str, uid: int | None, *, reconnect: bool) -> Iterator[Item]:
    has_begun = is_away = False
    while True:
        try:
            for item in client.ask(request, uid=uid):
                if "time" in item or "lost" in item:
                    yield item
                    continue
                # The first one: from now on nothing is missed.
                has_begun = True
                if is_away:
                    is_away = False
                    print_line("pykcmctl: connected again", err=True)
                    # What happened meanwhile nobody can tell.
                    yield {"lost": None}
        except OSError:
            if not (has_begun and reconnect):
                raise
            if not is_away:
                is_away = True
                print_line("pykcmctl: the daemon has ended; waiting for it", err=True)
            time.sleep(_PAUSE)
        else:
            return


def _json_item(item: Item) -> Item:
    if "lost" in item:
        return {"event": "lost", "number": item["lost"]}
    return {key: _for_json(key, value) for key, value in item.items()}


def _for_json(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _for_json(name, each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.hex() if key == "uuid" else ccache_shown(value)
    return value


def _event_line(item: Item) -> str:
    if "lost" in item:
        return _lost_line(item)
    parts = [_clock(item["time"]), _user(item["uid"]), item["event"]]
    if "ccache" in item:
        parts.append(ccache_shown(item["ccache"]))
    if "principal" in item:
        parts.append(item["principal"])
    if "server" in item:
        parts.append(item["server"])
    if "renewed" in item:
        parts.append("renewed")
    if "tickets" in item:
        parts.append(f"{item['tickets']} service tickets")
    if "reason" in item:
        parts.append(f"({item['reason']}{': ' + item['detail'] if 'detail' in item else ''})")
    return "  ".join(parts)


def _exchange_line(item: Item) -> str:
    if "lost" in item:
        return _lost_line(item)
    # Columns that are nearly always wide enough.
    line = (
        f"{_clock(item['time'])}  {_user(item['uid']):<12}  {item['pid']:>7}  {item['operation']:<18}  "
        f"{item['code']:<12}  {item['duration'] * 1e6:>8.0f} us  "
        f"{item['request_size']:>6} > {item['reply_size']:<6}  "
        f"{ccache_shown(item['ccache']) if 'ccache' in item else '-'}"
    )
    for lead, key in (("", "asked"), ("-> ", "answered")):
        if key in item:
            line += f"  {lead}{_words(item[key])}"
    return f"{line}  ({item['reason']})" if "reason" in item else line


def _words(values: Item) -> str:
    return " ".join([f"{key}={_word(key, value)}" for key, value in values.items()])


def _word(key: str, value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex() if key == "uuid" else escape(value)
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    if key == "enctype":
        return enctype_name(value)
    if key == "ticket_flags":
        return flag_names(value) or "-"
    if key == "endtime":
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(value)) if value else "-"
    return "yes" if value is True else str(value)


def _lost_line(item: Item) -> str:
    number = item["lost"]
    return (
        "-- what happened while the daemon was away is not known --"
        if number is None
        else f"-- {number} lost --"
    )


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}"


def _user(uid: int) -> str:
    return user_of(uid) or str(uid)


COMMANDS = (watch_command, trace_command)
