"""How results are shown: tables on a terminal, plain lines when piped, JSON when asked for.

All that pykcmctl prints goes through here, and nothing in it does anything to a terminal: users choose the
names of ccaches and files, and root reads them.
"""

import codecs
import io
import json
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import click

from pykcm.protocol.text import is_visible, printable

# A table's columns are as wide as what is in them: so many rows are looked at together.
_ROWS_AT_A_TIME = 500

# What is folded is never narrower than this, and what is a time than its date: it could not be read any more.
_NARROWEST = 12
_DATE = len("2026-11-22")

# Between two columns and at both edges, in a table that has room and in one that has none.
_GAP, _EDGES = 3, 2
_SMALL_GAP = 1

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


def never_fail_to_encode() -> None:
    """Print characters that the locale's encoding lacks as escapes: they end no command in the middle."""
    for stream in (sys.stdout, sys.stderr):
        # A program that has put its own there need not have one that can be asked.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_line(text: str = "", *, styled: str = "", err: bool = False) -> None:
    """One line, whatever is in the text; `styled` stands before it and is our own, by click.style."""
    click.echo(styled + printable(text), err=err)


def print_text(text: str, *, err: bool = False) -> None:
    """Lines of our own; names in them have been escaped, lest they make a line."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def print_rows(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table on a terminal, otherwise lines of columns parted by tabs; rows are shown as they come."""
    left = iter(rows)
    if not is_terminal():
        for row in left:
            click.echo("\t".join(map(printable, row)))
        return
    while some := [[*map(printable, row)] for row in islice(left, _ROWS_AT_A_TIME)]:
        _print_table(columns, some)


def _print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """As wide as the terminal; where that is too little the terminal breaks the lines: nothing is lost."""
    # Imported by those who see it: it takes longer than all the rest.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    widest = [
        max(cell_len(column.heading), *(cell_len(row[number]) for row in rows))
        for number, column in enumerate(columns)
    ]
    floors = [
        width if column.is_short else min(width, _NARROWEST)
        for column, width in zip(columns, widest, strict=True)
    ]
    is_narrow = sum(floors) + _GAP * (len(columns) - 1) + _EDGES > console.width
    if is_narrow:
        floors = [
            min(floor, _DATE) if column.is_time else floor
            for column, floor in zip(columns, floors, strict=True)
        ]
        console.width = max(console.width, sum(floors) + _SMALL_GAP * (len(columns) - 1))
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=not is_narrow, padding=(0, 0) if is_narrow else (0, 1)
    )
    for column, floor in zip(columns, floors, strict=True):
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=column.is_number or (column.is_time and not is_narrow),
            width=floor if column.is_short else None,
            min_width=floor,
        )
    for row in rows:
        # As it is: what others have named is no markup.
        table.add_row(*map(Text, row))
    console.print(table)


def print_json(value: Any, indent: int | None = 2) -> None:
    click.echo(_json(value, indent))


def print_json_array(values: Iterable[Any]) -> None:
    """An array, one element after the other as they come: they are never all in memory."""
    lead = "["
    for value in values:
        click.echo(lead + "\n  " + _json(value), nl=False)
        lead = ","
    click.echo("[]" if lead == "[" else "\n]")


def _json(value: Any, indent: int | None = None) -> str:
    r"""JSON that a terminal can be given: what cannot be seen is \uNNNN, and what stdout cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    is_ascii = codecs.lookup(encoding).name != "utf-8"
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    return "\n".join(map(_printable_json, text.split("\n")))


def _printable_json(line: str) -> str:
    if printable(line) == line:
        return line
    return "".join([c if is_visible(c) else json.dumps(c)[1:-1] for c in line])


def quoted(word: str) -> str:
    """The word as it is typed in a shell, all of it visible (for which a shell must know $'…')."""
    if printable(word) == word:
        return shlex.quote(word)
    escaped = printable(word.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{escaped}'"


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
