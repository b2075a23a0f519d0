"""The commands `stats` and `metrics`: the daemon's counters as tables, JSON or OpenMetrics text."""

import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.output import (
    format_duration,
    format_rounded_duration,
    format_size,
    is_terminal,
    print_json,
    print_line,
    print_text,
)
from pykcm.cli.tables import Field, print_table, table_lines
from pykcm.control.openmetrics import openmetrics
from pykcm.protocol.codes import EVERYDAY
from pykcm.protocol.text import printable

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)?", re.ASCII)

Stats = dict[str, Any]

_EVERYDAY = {code.name for code in EVERYDAY}

# In seconds: how often --watch asks again.
_WATCH_INTERVAL = 2.0

_OPERATION_FIELDS = (
    Field("Operation"),
    *[Field(each, is_number=True) for each in ("Count", "Not found", "Errors", "Per s", "p50", "p99", "Max")],
)


class DurationType(click.ParamType):  # type: ignore[type-arg]
    """A duration in seconds, or a number with its unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(value)
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is not a duration: give for example 2s, 500ms or 1m", param, ctx)
        return float(match[1]) * _UNITS[match[2] or ""]


@click.command("stats")
@click.option(
    "--interval",
    type=DurationType(),
    help="Count for this time, and show only that instead of everything since the start.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Show each interval (of 2 s without --interval) on the screen, until Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def stats_command(client: ControlClient, interval: float | None, *, watch: bool, as_json: bool) -> None:
    """Show the daemon's requests, durations, queues and caches.

    "Not found" counts the everyday answers: nothing matched, there is no such ccache, or a list has ended.
    "Errors" counts all other failures.
    """
    if watch:
        if as_json or not is_terminal():
            raise click.UsageError("--watch needs a terminal: for a pipe use --interval")
        _watch(client, interval or _WATCH_INTERVAL)
        return
    stats = _ask(client)
    seconds = stats["time"] - stats["started"]
    if interval is not None:
        earlier = stats
        # The user has asked for what happens within this time.
        time.sleep(interval)
        stats = _ask(client)
        if stats["started"] != earlier["started"]:
            raise click.ClickException("stats: the daemon was restarted during the interval; try again")
        seconds = stats["time"] - earlier["time"]
        stats = since(stats, earlier)
    if as_json:
        print_json(_for_json(stats, seconds))
        return
    operations = list(_operation_rows(stats, seconds))
    if operations:
        print_table(_OPERATION_FIELDS, operations)
        print_line()
    print_table(_OTHER_FIELDS, _other_rows(stats, seconds))


_OTHER_FIELDS = (Field("Statistic"), Field("Value", floors=(12, 8)))


def _watch(client: ControlClient, interval: float) -> None:
    """Draw the counts of each interval, as many lines as the terminal has. Ctrl-C is the normal end."""
    earlier = _ask(client)
    stats, seconds = earlier, earlier["time"] - earlier["started"]
    heading = "since the start"
    try:
        while True:
            _draw(heading, stats, seconds)
            # The counts are those of an interval.
            time.sleep(interval)
            now = _ask(client)
            if now["started"] == earlier["started"]:
                stats, seconds = since(now, earlier), now["time"] - earlier["time"]
                heading = f"in the last {format_duration(seconds)}"
            else:
                stats, seconds = now, now["time"] - now["started"]
                heading = "since the daemon's restart"
            earlier = now
    except KeyboardInterrupt:
        print_line()


def _draw(heading: str, stats: Stats, seconds: float) -> None:
    lines = [
        f"{time.strftime('%H:%M:%S')}, {heading}:",
        *table_lines(_OPERATION_FIELDS, _operation_rows(stats, seconds)),
        "",
        *table_lines(_OTHER_FIELDS, _other_rows(stats, seconds)),
    ]
    room = max(shutil.get_terminal_size().lines - 1, 1)
    # Home, clear the rest of each line, and then of the screen: nothing flickers.
    print_line(styled="\033[H" + "\033[K\n".join(lines[:room]) + "\033[K\033[J")
    sys.stdout.flush()


class ListenType(click.ParamType):  # type: ignore[type-arg]
    """An address for the HTTP server."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from pykcm.cli.metrics_server import ALLOWED_LISTEN, is_listen_address  # noqa: PLC0415 - rarely used

        if not isinstance(value, str) or not is_listen_address(value):
            self.fail(f"{value!r} is not {ALLOWED_LISTEN}", param, ctx)
        return value


@click.command("metrics")
@click.option(
    "--listen",
    type=ListenType(),
    metavar="ADDRESS",
    help="Serve /metrics and /health over HTTP at unix:PATH, 127.0.0.1:PORT or [::1]:PORT, until SIGTERM.",
)
@click.pass_obj
def metrics_command(client: ControlClient, listen: str | None) -> None:
    """Print the statistics as OpenMetrics text, or serve them.

    They are served over HTTP with --listen, or on the sockets that systemd passes (pykcm-metrics.socket).
    """
    if (listen is None and "LISTEN_FDS" not in os.environ) or not _serve(client, listen):
        print_text(openmetrics(_ask(client)).removesuffix("\n"))


def _serve(client: ControlClient, listen: str | None) -> bool:
    """Serve metrics over HTTP until a signal ends it. Returns False if there is no socket to serve."""
    # Only this form of the command needs them.
    from pykcm.cli import metrics_server  # noqa: PLC0415
    from pykcm.logs import set_up_logging  # noqa: PLC0415
    from pykcm.sockets.passed import ListenError  # noqa: PLC0415
    from pykcm.sockets.systemd import Notifier  # noqa: PLC0415

    patient = ControlClient(client.path, patience=metrics_server.PATIENCE_WITH_DAEMON)
    with ExitStack() as at_end:
        try:
            sockets = metrics_server.sockets_from_systemd()
            if not sockets and listen is not None:
                sockets = at_end.enter_context(metrics_server.bound(listen))
        except ListenError as error:
            raise click.ClickException(str(error)) from None
        if not sockets:
            return False
        set_up_logging("pykcmctl")
        metrics_server.serve(sockets, lambda: _ask(patient), Notifier())
    return True


def _ask(client: ControlClient) -> Stats:
    (stats,) = client.ask("stats")
    answered: Stats = stats
    return answered


# Keys and groups of keys that are states. All others are counters.
_STATES = {
    *("time", "started", "ccaches", "collections", "size", "open", "longest", "watchers", "tracers"),
    *("client", "known", "due", "trying", "next_due"),
    *("away_since", "last_seen", "connections_open"),
}
_STATE_GROUPS = {"near_quotas", "queues"}


def since(now: Any, earlier: Any) -> Any:
    """Return the counters' differences between two answers, and the states as they are now.

    The longest duration is known only since the start, and is left out.
    """
    if isinstance(now, dict):
        before = earlier if isinstance(earlier, dict) else {}
        return {
            key: value if key in _STATES or key in _STATE_GROUPS else since(value, before.get(key))
            for key, value in now.items()
            if key != "longest"
        }
    if isinstance(now, list):
        before_list = earlier or []
        padded = [*before_list, *[0] * (len(now) - len(before_list))]
        return [after - before for after, before in zip(now, padded, strict=True)]
    return now - (earlier or 0) if isinstance(now, int | float) and not isinstance(now, bool) else now


def quantile(durations: Stats, share: float) -> float:
    """Return the duration in seconds that `share` of the durations are below, interpolated in its bucket."""
    buckets: list[int] = durations["buckets"]
    longest: float = durations.get("longest", math.inf)
    wanted = share * sum(buckets)
    below = 0
    for number, count in enumerate(buckets):
        if count and below + count >= wanted:
            high = 1 << number
            low = high >> 1
            return min((low + (high - low) * (wanted - below) / count) / 1e9, longest)
        below += count
    return 0.0


_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def _for_json(stats: Stats, seconds: float) -> Stats:
    """Return the answer, with `interval` added, and for each operation its rate and quantiles."""
    operations = {
        name: each
        | {"rate": each["count"] / seconds if seconds else 0.0}
        | {"not_found": _count(each["errors"], everyday=True)}
        | {share: quantile(each, part) for share, part in _SHARES.items()}
        for name, each in stats["operations"].items()
    }
    return stats | {"interval": seconds, "operations": operations}


def _operation_rows(stats: Stats, seconds: float) -> Iterator[list[str]]:
    for name, each in sorted(stats["operations"].items(), key=lambda item: -item[1]["count"]):
        if each["count"]:
            yield [
                name,
                str(each["count"]),
                str(_count(each["errors"], everyday=True)),
                str(_count(each["errors"], everyday=False)),
                _rate(each["count"], seconds),
                *[format_duration(quantile(each, _SHARES[share])) for share in ("p50", "p99")],
                format_duration(each["longest"]) if "longest" in each else "-",
            ]


def _count(errors: dict[str, int], *, everyday: bool) -> int:
    return sum(number for code, number in errors.items() if (code in _EVERYDAY) == everyday)


def _other_rows(stats: Stats, seconds: float) -> Iterator[list[str]]:
    commits, cache = stats["commits"], stats["cache"]
    connections, queues = stats["connections"], stats["queues"]

    def row(name: str, number: int | None, more: str = "") -> list[str]:
        if number is None:
            return [name, more or "-"]
        return [name, f"{number} ({more})" if more else str(number)]

    def counted(name: str, number: int) -> list[str]:
        return row(name, number, f"{_rate(number, seconds)} per second")

    yield row("healthy", None, f"no: {stats['failing']}" if stats["failing"] else "yes")
    yield row("ccaches", stats["ccaches"])
    yield counted("commits", commits["count"])
    yield row(
        "operations per commit",
        None,
        f"{commits['operations'] / commits['count']:.2f}" if commits["count"] else "-",
    )
    yield row("commit duration p50, p99", None, _two_quantiles(commits))
    yield row("commits that failed", commits["failures"])
    yield row("requests that failed in the store", stats["store_errors"])
    yield from _store_rows(stats.get("store"), stats["time"])
    lookups = cache["hits"] + cache["misses"]
    yield row(
        "collections found in memory", cache["hits"], f"{cache['hits'] / lookups:.1%}" if lookups else ""
    )
    yield row("collections read from the store", cache["misses"])
    yield row("collections removed from memory", cache["let_go"])
    yield row("collections in memory", cache["collections"], format_size(cache["size"]))
    yield row("connections open", connections["open"])
    yield counted("connections accepted", connections["accepted"])
    yield row("connections closed to make room", connections["evicted"])
    yield row("connections refused at a limit", connections["refused"])
    yield row("connections refused: unknown peer", connections["unidentified"])
    for limit, number in connections["broken_off"].items():
        yield row(f"connections broken off: {limit}", number)
    yield row("requests for unknown operations", stats["unknown_operations"])
    yield row("users with an operation in progress", queues["lanes"])
    yield row("requests waiting for the same user's", queues["waiting_for_lane"])
    yield row("requests waiting for other users'", queues["waiting_for_turn"])
    yield row("large requests waiting", None, format_size(queues["request_bytes"]))
    yield row("replies not read by clients", None, format_size(queues["reply_bytes"]))
    for option, number in stats.get("near_quotas", {}).items():
        yield row(f"users near {option}", number)
    yield from _renewal_rows(stats.get("renewals"))
    for kind in ("ccaches", "tickets"):
        for reason, number in stats[f"removed_{kind}"].items():
            yield row(f"{kind} removed: {reason}", number)


def _store_rows(store: Stats | None, now: float) -> Iterator[list[str]]:
    """The state of a shared store."""
    if store is None:
        return
    since, found = store["away_since"], store["found_out"]
    away = "" if since is None else format_rounded_duration(int(now - since))
    state = "there" if since is None else f"away for {away}: {store['reason']}"
    last_seen = format_rounded_duration(max(0, int(now - store["last_seen"])))
    yield ["shared store", f"{store['name']}: {state}"]
    yield ["shared store last seen", f"{last_seen} ago"]
    yield ["absences of the shared store", str(store["absences"])]
    yield [
        "connections to the shared store",
        f"{store['connections_open']} ({store['connections_made']} made)",
    ]
    yield ["statements to the shared store", f"{store['calls']} ({store['look_ups']} for versions)"]
    yield ["commits that conflicted with other hosts'", str(store["conflicts"])]
    yield ["answers of the shared store that were late", str(store["timeouts"])]
    more = f"{found['made']} commits found to be made, {found['not_made']} not"
    yield ["answers of the shared store that were lost", f"{store['lost_answers']} ({more})"]


def _renewal_rows(renewals: Stats | None) -> Iterator[list[str]]:
    """The state of renewals, once pykcm-renew has asked for TGTs."""
    if renewals is None:
        return
    client = "pykcm-renew is connected" if renewals["client"] else "pykcm-renew is not connected"
    yield ["TGTs that can be renewed", str(renewals["known"]), client]
    yield ["TGTs that wait for their renewal", str(renewals["due"]), ""]
    yield ["renewals in progress", str(renewals["trying"]), ""]
    yield ["TGTs renewed", str(renewals["renewed"]), ""]
    yield ["TGTs renewed too late", str(renewals["unchanged"]), "the ccache had changed"]
    for reason, number in renewals["failures"].items():
        yield [f"failed renewals: {printable(reason)}", str(number), ""]


def _two_quantiles(durations: Stats) -> str:
    if not any(durations["buckets"]):
        return "-"
    return f"{format_duration(quantile(durations, 0.5))}, {format_duration(quantile(durations, 0.99))}"


def _rate(number: int, seconds: float) -> str:
    return f"{number / seconds:.1f}" if seconds else "-"


COMMANDS = (stats_command, metrics_command)
