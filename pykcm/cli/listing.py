"""The command list: the ccaches of all users, one line for each."""

import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import click

from pykcm.ccaches.quotas import NEAR_SHARE
from pykcm.cli.client import Answer, ControlClient
from pykcm.cli.list_columns import (
    COLUMNS,
    DEFAULT_COLUMNS,
    SORT_KEYS,
    WIDE_COLUMNS,
    Row,
    Style,
    ccache_json,
    renewal_json,
    states_of,
)
from pykcm.cli.names import format_ccache, user_name
from pykcm.cli.output import (
    fetch_first,
    format_count,
    format_size,
    is_terminal,
    print_json_array,
    print_line,
)
from pykcm.cli.parameters import UidType
from pykcm.cli.tables import print_table, table_lines

# The share of a quota from which the next ticket may be refused.
_FULL_SHARE = 0.95

# How many users and ccaches near a quota are named.
_USES_NAMED = 10

# In seconds: how often --watch asks again.
_WATCH_INTERVAL = 2.0

_UNITS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
_DURATION = re.compile(r"(?:\d{1,6}(?:d|h|min|m|s))+")


class _Duration(click.ParamType):  # type: ignore[type-arg]
    """Click parameter type: a duration such as 1h, 90m or 1d12h, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not _DURATION.fullmatch(value):
            self.fail(f"{value!r} is not a duration; give one such as 1h, 90m or 1d12h", param, ctx)
        return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(d|h|min|m|s)", value))


class _Columns(click.ParamType):  # type: ignore[type-arg]
    """Click parameter type: names of columns, separated by commas."""

    name = "columns"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(each.strip().lower() for each in value.split(","))
        for name in names:
            if name not in COLUMNS:
                self.fail(f"there is no column {name!r}; there are {', '.join(COLUMNS)}", param, ctx)
        return names


class _Sort(click.ParamType):  # type: ignore[type-arg]
    """Click parameter type: the name of a column, with a leading - for the reverse order."""

    name = "column"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name: str = value.lower()
        if name.removeprefix("-") not in SORT_KEYS:
            self.fail(f"cannot sort by {value!r}; give one of {', '.join(SORT_KEYS)}", param, ctx)
        return name


class _Filter(NamedTuple):
    """Conditions that pykcmctl checks itself."""

    principal: str | None
    expiring: int | None

    def accepts(self, row: Row, now: float) -> bool:
        if self.principal is not None and not fnmatchcase(row["principal"] or "", self.principal):
            return False
        expires = row["expires"]
        return self.expiring is None or (expires is not None and now < expires <= now + self.expiring)


@click.command("list", context_settings={"allow_extra_args": True})
@click.option("--user", "--uid", "uid", type=UidType(), help="Only the ccaches of this user.")
@click.option("--principal", metavar="GLOB", help="Only ccaches of these principals, such as 'alice@*'.")
@click.option("--expired", is_flag=True, help="Only ccaches whose tickets have all expired.")
@click.option("--expiring", type=_Duration(), help="Only ccaches that expire within this time, such as 1h.")
@click.option("--sort", type=_Sort(), help="Sort by this column; -COLUMN: in reverse order.")
@click.option("--columns", type=_Columns(), help="Show these columns, such as user,expires.")
@click.option("--wide", is_flag=True, help="Show more columns, and shorten nothing.")
@click.option("--label", is_flag=True, help="Also show the SELinux label of each ccache.")
@click.option("--times", is_flag=True, help="Show times as dates, not in words.")
@click.option("--no-header", is_flag=True, help="Print no headings.")
@click.option("--watch", is_flag=True, help="Show the list again every 2 seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_command(
    context: click.Context,
    uid: int | None,
    principal: str | None,
    expiring: int | None,
    sort: str | None,
    columns: tuple[str, ...] | None,
    *,
    expired: bool,
    wide: bool,
    label: bool,
    times: bool,
    no_header: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """List the ccaches of all users, one line for each.

    Marks: "*" the chosen default, "+" the default in place of a missing one, "!" expired or damaged, "~"
    renewing. In a pipe, lines are tab-separated and times are ISO 8601.
    """
    if context.args:
        raise click.UsageError(
            f"unexpected argument {context.args[0]!r}; for the ccaches of one user give --user "
            f"{context.args[0]}, for one ccache `pykcmctl show`"
        )
    if watch and (as_json or not is_terminal()):
        raise click.UsageError("--watch needs a terminal; for a pipe use `pykcmctl watch`")
    names = columns or (WIDE_COLUMNS if wide else DEFAULT_COLUMNS)
    if label and "label" not in names:
        names = (*names, "label")
    listing = _Listing(context.obj, uid, _Filter(principal, expiring), sort, names, expired=expired)
    if as_json:
        print_json_array(map(_for_json, listing.rows()))
    elif watch:
        _watch(listing, header=not no_header, shortens=not wide, has_dates=times)
    else:
        style = Style(not is_terminal(), times, time.time())
        cells = listing.cells(style)
        print_table(listing.fields, cells, header=not no_header, shortens=not wide)
        listing.print_totals()


class _Listing:
    """One request `list`: its rows that pass the filter, in order; then totals and the use of quotas."""

    def __init__(
        self,
        client: ControlClient,
        uid: int | None,
        condition: _Filter,
        sort: str | None,
        columns: Sequence[str],
        *,
        expired: bool,
    ) -> None:
        self._client = client
        self._arguments: dict[str, Any] = {"uid": uid, "expired": expired}
        self._condition = condition
        self._sort = sort
        self._columns = [COLUMNS[name] for name in columns]
        self.fields = [column.field for column in self._columns]
        self._answer: Answer | None = None
        self._number = 0
        self._uses: list[tuple[float, str]] = []

    def rows(self) -> Iterator[Row]:
        """Ask the daemon; an early error is raised before the first row."""
        self._number = 0
        self._uses = []
        self._answer = self._client.ask("list", **self._arguments)
        rows = self._accepted(fetch_first(iter(self._answer)))
        return rows if self._sort is None else iter(_sorted(rows, self._sort))

    def _accepted(self, items: Iterable[Any]) -> Iterator[Row]:
        now = time.time()
        for item in items:
            if "ccache" not in item:
                self._keep_use(item["user"])
            elif self._condition.accepts(item["ccache"], now):
                self._number += 1
                yield item["ccache"]

    def cells(self, style: Style) -> Iterator[list[str]]:
        for row in self.rows():
            yield [column.cell(row, style) for column in self._columns]

    def _keep_use(self, use: dict[str, Any]) -> None:
        """Keep the use of quotas by a user and by their ccaches, where it is worth a line."""
        # A daemon of an earlier version does not send near_ccaches.
        near = use.get("near_ccaches", ())
        if not near and max(_share(use, quota) for quota in _USER_QUOTAS) < NEAR_SHARE:
            return
        user = user_name(use["uid"]) or str(use["uid"])
        found: list[tuple[str, dict[str, Any], tuple[_Quota, ...]]] = [(user, use, _USER_QUOTAS)]
        found += [(f"{format_ccache(each['name'])} of {user}", each, _CCACHE_QUOTAS) for each in near]
        for subject, amounts, quotas in found:
            if (share := max(_share(amounts, quota) for quota in quotas)) >= NEAR_SHARE:
                texts = ", ".join(_quota_texts(amounts, quotas))
                self._uses.append((share, f"{subject} has used {share:.0%} of a quota: {texts}"))
        self._uses.sort(key=lambda each: each[0], reverse=True)
        del self._uses[_USES_NAMED:]

    def totals(self) -> Iterator[str]:
        """Lines about all rows, for a terminal."""
        assert self._answer is not None
        summary = self._answer.summary
        total = summary["ccaches"]
        if not total:
            yield "no ccaches"
        elif self._number != total:
            yield f"{self._number} of {format_count(total, 'ccache')}"
        else:
            users = format_count(summary["users"], "user")
            yield f"{format_count(total, 'ccache')} of {users}, {format_size(summary['size'])}"

    def quota_lines(self) -> Iterator[str]:
        """A line for each user and ccache near a quota, and for all users together."""
        assert self._answer is not None
        shares = [share for share, _ in self._uses]
        for _, line in self._uses:
            yield line
        number, most = (self._answer.summary.get(key, 0) for key in ("all_ccaches", "max_ccaches"))
        if most and number >= NEAR_SHARE * most:
            shares.append(number / most)
            yield (
                f"all users together have used {number / most:.0%} of a quota: {number} of {most} ccaches "
                "(max_ccaches)"
            )
        if shares and max(shares) >= _FULL_SHARE:
            yield 'At 100% kinit says "Disk quota exceeded"; `pykcmctl destroy` makes room'

    def print_totals(self) -> None:
        if is_terminal():
            for line in self.totals():
                print_line(line, err=True)
        for line in self.quota_lines():
            print_line(line, err=True)


def _sorted(rows: Iterable[Row], sort: str) -> list[Row]:
    key = SORT_KEYS[sort.removeprefix("-")]
    rows = list(rows)
    known = [row for row in rows if key(row) is not None]
    known.sort(key=key, reverse=sort.startswith("-"))
    return known + [row for row in rows if key(row) is None]


class _Quota(NamedTuple):
    """The keys of an amount and of its limit, and the option of the limit."""

    used: str
    limit: str
    option: str


_USER_QUOTAS = (
    _Quota("ccaches", "max_ccaches", "max_uid_ccaches"),
    _Quota("size", "max_size", "max_uid_size"),
    _Quota("credentials", "max_credentials", "max_uid_credentials"),
)
_CCACHE_QUOTAS = (
    _Quota("size", "max_size", "max_ccache_size"),
    _Quota("credentials", "max_credentials", "max_ccache_credentials"),
)


def _share(amounts: dict[str, Any], quota: _Quota) -> float:
    limit = amounts.get(quota.limit)
    return amounts[quota.used] / limit if limit else 0.0


def _quota_texts(amounts: dict[str, Any], quotas: Sequence[_Quota]) -> Iterator[str]:
    for quota in quotas:
        if _share(amounts, quota) >= NEAR_SHARE:
            used, limit = amounts[quota.used], amounts[quota.limit]
            text = (
                f"{format_size(used)} of {format_size(limit)}"
                if quota.used == "size"
                else f"{used} of {limit} {quota.used}"
            )
            yield f"{text} ({quota.option})"


def _watch(listing: _Listing, *, header: bool, shortens: bool, has_dates: bool) -> None:
    """Draw the list again and again, as many lines as the terminal has."""
    try:
        while True:
            style = Style(is_piped=False, has_dates=has_dates, now=time.time())
            rows = list(listing.cells(style))
            lines = [*table_lines(listing.fields, rows, header=header, shortens=shortens)]
            ending = [*listing.totals(), *listing.quota_lines()]
            room = max(shutil.get_terminal_size().lines - len(ending) - 1, 1)
            if len(lines) > room:
                ending.insert(0, f"{len(lines) - room + 1} more lines: give --user, or a larger terminal")
                lines = lines[: room - 1]
            # Home, clear the rest of each line, and then of the screen: nothing flickers.
            print_line(styled="\033[H" + "\033[K\n".join([*lines, *ending]) + "\033[K\033[J")
            sys.stdout.flush()
            # Expiry is no event, so that the screen is drawn at intervals.
            time.sleep(_WATCH_INTERVAL)
    except KeyboardInterrupt:
        # Ctrl-C is the normal end.
        return


def _for_json(row: Row) -> Row:
    """The keys that pykcmctl(8) documents, in that order."""
    now = time.time()
    return {
        **ccache_json(row),
        "states": states_of(row, now),
        **renewal_json(row),
    }


COMMANDS = (list_command,)
