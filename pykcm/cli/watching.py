"""The commands watch and trace: events and requests, printed as they happen."""

import shutil
import sys
import textwrap
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from pykcm.cli.client import ControlClient
from pykcm.cli.names import format_ccache, format_user, user_name
from pykcm.cli.output import (
    enctype_name,
    flag_names,
    format_duration,
    is_terminal,
    print_json,
    print_line,
)
from pykcm.cli.parameters import CCacheType, UidType
from pykcm.cli.tables import pad
from pykcm.processes import program_of
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.text import escape, printable

# In seconds: how long to wait before each attempt to reconnect.
_RECONNECT_INTERVAL = 1.0

# Columns: a narrower terminal wraps lines itself.
_SMALLEST_WIDTH = 40

# The exit status when the daemon has ended.
_EXIT_NO_DAEMON = 3

# Widths of columns: every operation and the usual codes, users and programs fit.
_OPERATION_WIDTH = max(len(opcode.name) for opcode in Opcode)
_CODE_WIDTH = len("FCC_INTERNAL")
_USER_WIDTH, _PROGRAM_WIDTH = 8, 14
_EVENT_WIDTH, _CCACHE_WIDTH = len("destroyed"), len("KCM:1000:12345")

# Processes whose programs are remembered after their end, and for how long, in seconds.
_MOST_PROGRAMS = 1024
_REMEMBERED_FOR = 60.0

_uid = click.option("--user", "--uid", "uid", type=UidType(), help="Only this user.")
_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object on each line.")
_reconnect = click.option(
    "--reconnect", is_flag=True, help="Continue when the daemon has ended and was started again."
)


class _Operation(click.ParamType):  # type: ignore[type-arg]
    """Click parameter type: the name of an operation, in upper or lower case."""

    name = "operation"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = [opcode.name for opcode in Opcode]
        operation: str = value.upper()
        if operation not in names:
            similar = " or ".join(get_close_matches(operation, names, 3))
            advice = f"did you mean {similar}?" if similar else "`pykcmctl stats` names those in use"
            self.fail(f"there is no operation {value!r}; {advice}", param, ctx)
        return operation

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(each.name) for each in Opcode if each.name.startswith(incomplete.upper())]


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
    _follow(client, "watch", {"uid": uid}, None if as_json else _event_line, reconnect=reconnect)


@click.command("trace")
@_uid
@click.option("--errors", is_flag=True, help="Only failures, without everyday answers such as not found.")
@click.option(
    "--op",
    "operation",
    type=_Operation(),
    help="Only this operation, for example RETRIEVE.",
)
@click.option("--ccache", type=CCacheType(), help="Only requests that name this ccache, or whose reply does.")
@_json
@_reconnect
@click.pass_obj
def trace_command(
    client: ControlClient,
    uid: int | None,
    operation: str | None,
    ccache: bytes | None,
    *,
    errors: bool,
    as_json: bool,
    reconnect: bool,
) -> None:
    """Show the requests and replies of clients, until Ctrl-C.

    A line has time, user, program and PID, operation, result, duration, ccache, request and reply. Keys and
    tickets are never shown: the daemon does not send them.
    """
    wanted: dict[str, Any] = {"uid": uid}
    # An argument without a value is left out: a daemon of an earlier version does not know it.
    wanted |= {"errors": True} if errors else {}
    wanted |= {"operation": operation} if operation else {}
    wanted |= {"ccache": ccache} if ccache is not None else {}
    _follow(client, "trace", wanted, None if as_json else _exchange_line, reconnect=reconnect)


def _follow(
    client: ControlClient,
    request: str,
    wanted: dict[str, Any],
    line: Line | None,
    *,
    reconnect: bool,
) -> None:
    """Print each item as formatted by `line`, or as JSON if that is None."""
    try:
        for item in _items(client, request, wanted, reconnect=reconnect):
            if line is None:
                print_json(_json_item(item), indent=None)
            else:
                for each in _fitted(line(item)):
                    print_line(each)
            sys.stdout.flush()
    except KeyboardInterrupt:
        # Ctrl-C is the normal end.
        return


def _fitted(line: str) -> list[str]:
    """The line for the terminal: what does not fit follows below, to the right of the time."""
    if not is_terminal():
        return [line]
    width = max(shutil.get_terminal_size().columns, _SMALLEST_WIDTH)
    indent = " " * (len(_clock(0)) + 1)
    return textwrap.wrap(
        printable(line), width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _announce(request: str, wanted: dict[str, Any], uid: int | None) -> None:
    """Say on a terminal what the command waits for: it may print nothing for a long time.

    `uid`: the user whose events arrive, or None for all.
    """
    if not sys.stderr.isatty():
        return
    subject = "changes of ccaches" if request == "watch" else "requests"
    if "errors" in wanted:
        subject = "failing requests"
    if "operation" in wanted:
        subject += f" {wanted['operation']}"
    if "ccache" in wanted:
        subject += f" for {format_ccache(wanted['ccache'])}"
    users = "all users" if uid is None else format_user(uid)
    print_line(f"Waiting for {subject} of {users}. End with Ctrl-C.", err=True)


def _items(client: ControlClient, request: str, wanted: dict[str, Any], *, reconnect: bool) -> Iterator[Item]:
    has_begun = is_disconnected = False
    while True:
        try:
            for item in client.ask(request, **wanted):
                if "time" in item or "lost" in item:
                    yield item
                    continue
                # The first item of a reply: from now on, all events are received.
                _announce(request, wanted, item.get("uid", wanted["uid"]))
                has_begun = True
                if is_disconnected:
                    is_disconnected = False
                    print_line("pykcmctl: connected again", err=True)
                    # Nobody counted the events of the time between.
                    yield {"lost": None}
        except OSError:
            if not has_begun:
                raise
            if not reconnect:
                _end_without_daemon(request)
            if not is_disconnected:
                is_disconnected = True
                print_line("pykcmctl: the daemon has ended; waiting until it is started again", err=True)
            # Nothing tells when a daemon listens again.
            time.sleep(_RECONNECT_INTERVAL)
        else:
            return


def _end_without_daemon(request: str) -> NoReturn:
    print_line(
        f"pykcmctl: {request}: the connection to the daemon has ended; to go on when the daemon is started "
        f"again, use `pykcmctl {request} --reconnect`",
        err=True,
    )
    raise click.exceptions.Exit(_EXIT_NO_DAEMON)


def _json_item(item: Item) -> Item:
    if "lost" in item:
        return {"event": "lost", "number": item["lost"]}
    if "pid" in item and (program := _program(item)):
        item |= {"program": program}
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
    parts.append(format_ccache(item["ccache"]) if "ccache" in item else "")
    parts = _aligned(parts) if is_terminal() else list(filter(None, parts))
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
    return "  ".join(parts).rstrip()


def _aligned(parts: list[str]) -> list[str]:
    """The parts with the widths of their columns. A name that is longer shifts the rest of its line only."""
    widths = (0, _USER_WIDTH, _EVENT_WIDTH, _CCACHE_WIDTH)
    return [pad(printable(part), width) for part, width in zip(parts, widths, strict=True)]


def _exchange_line(item: Item) -> str:
    if "lost" in item:
        return _lost_line(item)
    process = f"{_program(item) or 'process'}[{item['pid'] or '?'}]"
    line = (
        f"{_clock(item['time'])} {pad(printable(_user(item['uid'])), _USER_WIDTH)} "
        f"{pad(process, _PROGRAM_WIDTH)} "
        f"{item['operation']:<{_OPERATION_WIDTH}} {item['code']:<{_CODE_WIDTH}} "
        f"{format_duration(item['duration']):>8} "
        f"{format_ccache(item['ccache']) if 'ccache' in item else '-'}"
    )
    for lead, key in (("", "asked"), ("-> ", "answered")):
        if key in item:
            line += f"  {lead}{_format_fields(item[key])}"
    return f"{line}  ({item['reason']})" if "reason" in item else line


# By PID: the program, and when it was read.
_programs: OrderedDict[int, tuple[str, float]] = OrderedDict()


def _program(item: Item) -> str:
    """The program's name: from the daemon, or from /proc if systemd hides other users' processes from it."""
    if "program" in item:
        return str(item["program"])
    pid, now = item["pid"], time.monotonic()
    if not pid:
        return ""
    try:
        # A process of another user has the PID by now, or the daemon counts PIDs in another namespace.
        is_other = Path(f"/proc/{pid}").stat().st_uid not in {item["uid"], 0}
    except OSError:
        name, since = _programs.get(pid, ("", now))
        return name if now - since < _REMEMBERED_FOR else ""
    name = "" if is_other else program_of(pid)
    _programs[pid] = name, now
    _programs.move_to_end(pid)
    if len(_programs) > _MOST_PROGRAMS:
        _programs.popitem(last=False)
    return name


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
