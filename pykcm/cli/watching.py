"""The commands watch and trace: events and requests, printed as they happen."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.names import UidType, format_ccache, user_name
from pykcm.cli.output import enctype_name, flag_names, print_json, print_line
from pykcm.protocol.text import escape

# In seconds: how long to wait before each attempt to reconnect.
_RECONNECT_INTERVAL = 1.0

_uid = click.option("--uid", type=UidType(), help="Only this user.")
_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object on each line.")
_reconnect = click.option(
    "--reconnect", is_flag=True, help="Continue when the daemon has ended and was started again."
)

Item = dict[str, Any]
Line = Callable[[Item], str]


@click.command("watch")
@_uid
@_json
@_reconnect
@click.pass_obj
def watch_command(client: ControlClient, uid: int | None, *, as_json: bool, reconnect: bool) -> None:
    """Show changes of ccaches as they happen, until Ctrl-C.

    Events are: created, replaced, stored (a ticket), destroyed, expired, evicted (to make room), default
    (another one), refused.
    If events arrive faster than they are printed, a line says how many were lost.
    """
    _follow(client, "watch", uid, None if as_json else _event_line, reconnect=reconnect)


@click.command("trace")
@_uid
@_json
@_reconnect
@click.pass_obj
def trace_command(client: ControlClient, uid: int | None, *, as_json: bool, reconnect: bool) -> None:
    """Show the requests and replies of clients, until Ctrl-C.

    A line has time, user, process, operation, result, duration, sizes, ccache, request and reply. Keys and
    tickets are never shown: the daemon does not send them.
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
    """Print each item as formatted by `line`, or as JSON if that is None."""
    try:
        for item in _items(client, request, uid, reconnect=reconnect):
            if line is None:
                print_json(_json_item(item), indent=None)
            else:
                print_line(line(item))
            sys.stdout.flush()
    except KeyboardInterrupt:
        # Ctrl-C is the normal end.
        return


def _items(client: ControlClient, request: str, uid: int | None, *, reconnect: bool) -> Iterator[Item]:
    has_begun = is_disconnected = False
    while True:
        try:
            for item in client.ask(request, uid=uid):
                if "time" in item or "lost" in item:
                    yield item
                    continue
                # The first item of a reply: from now on, all events are received.
                has_begun = True
                if is_disconnected:
                    is_disconnected = False
                    print_line("pykcmctl: connected again", err=True)
                    # Nobody counted the events of the time between.
                    yield {"lost": None}
        except OSError:
            if not (has_begun and reconnect):
                raise
            if not is_disconnected:
                is_disconnected = True
                print_line("pykcmctl: the daemon has ended; waiting until it is started again", err=True)
            # Nothing tells when a daemon listens again.
            time.sleep(_RECONNECT_INTERVAL)
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
        return value.hex() if key == "uuid" else format_ccache(value)
    return value


def _event_line(item: Item) -> str:
    if "lost" in item:
        return _lost_line(item)
    parts = [_clock(item["time"]), _user(item["uid"]), item["event"]]
    if "ccache" in item:
        parts.append(format_ccache(item["ccache"]))
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
    # The columns are wide enough for nearly all values.
    line = (
        f"{_clock(item['time'])}  {_user(item['uid']):<12}  {item['pid']:>7}  {item['operation']:<18}  "
        f"{item['code']:<12}  {item['duration'] * 1e6:>8.0f} us  "
        f"{item['request_size']:>6} > {item['reply_size']:<6}  "
        f"{format_ccache(item['ccache']) if 'ccache' in item else '-'}"
    )
    for lead, key in (("", "asked"), ("-> ", "answered")):
        if key in item:
            line += f"  {lead}{_format_fields(item[key])}"
    return f"{line}  ({item['reason']})" if "reason" in item else line


def _format_fields(values: Item) -> str:
    return " ".join([f"{key}={_format_value(key, value)}" for key, value in values.items()])


def _format_value(key: str, value: Any) -> str:
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
        "-- events while the daemon was not running are unknown --"
        if number is None
        else f"-- {number} lost --"
    )


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}"


def _user(uid: int) -> str:
    return user_name(uid) or str(uid)


COMMANDS = (watch_command, trace_command)
