"""How results are shown: tables on a terminal, plain lines when piped, JSON when asked for."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import click

# A table's columns are as wide as what is in them: so many rows are looked at together.
_ROWS_AT_A_TIME = 500

_KIB = 1024


class Column(NamedTuple):
    """A column's heading, whether it holds numbers, and whether what it holds is never folded."""

    heading: str
    is_number: bool = False
    is_time: bool = False

    @property
    def is_short(self) -> bool:
        return self.is_number or self.is_time


def is_terminal() -> bool:
    return sys.stdout.isatty()


def print_rows(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table on a terminal, otherwise lines of columns parted by tabs; rows are shown as they come."""
    left = iter(rows)
    if not is_terminal():
        for row in left:
            click.echo("\t".join(row))
        return
    while some := list(islice(left, _ROWS_AT_A_TIME)):
        _print_table(columns, some)


def _print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    # Imported by those who see it: it takes longer than all the rest.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=column.is_short,
        )
    for row in rows:
        # As it is: what others have named is no markup.
        table.add_row(*map(Text, row))
    Console().print(table)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_array(values: Iterable[Any]) -> None:
    """An array, one element after the other as they come: they are never all in memory."""
    lead = "["
    for value in values:
        click.echo(lead + "\n  " + json.dumps(value, ensure_ascii=False), nl=False)
        lead = ","
    click.echo("[]" if lead == "[" else "\n]")


def shown_time(seconds: int | None) -> str:
    """In the reader's time zone."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def shown_size(size: int) -> str:
    """Bytes, or KiB and MiB with one decimal."""
    if size < _KIB:
        return f"{size} B"
    if size < _KIB * _KIB:
        return f"{size / _KIB:.1f} KiB"
    return f"{size / _KIB / _KIB:.1f} MiB"


def shown_number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def peeked(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, the first one fetched now: what fails at once does so before anything is shown."""
    first = list(islice(items, 1))
    return chain(first, items)
