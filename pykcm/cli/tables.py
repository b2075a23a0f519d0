"""Tables with one line for each row: long cells are shortened in the middle to fit the terminal."""

import codecs
import shutil
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from pykcm.cli.output import is_terminal, print_line, styled
from pykcm.protocol.text import printable

# Rows for which the widths are computed together: rows are printed as they arrive.
_ROWS_TOGETHER = 500

_GAP, _SMALL_GAP = 2, 1


class Field(NamedTuple):
    """A column. `floors`: the widths to which it may be shortened, a readable one and the smallest.

    `importance`: how much a character counts when another column may be shortened in its place.
    """

    heading: str
    is_number: bool = False
    floors: tuple[int, int] | None = None
    importance: int = 1


def print_table(
    fields: Sequence[Field], rows: Iterable[Sequence[str]], *, header: bool = True, shortens: bool = True
) -> None:
    """Print rows as they arrive: a table on a terminal, otherwise tab-separated lines without headings."""
    if not is_terminal():
        for row in rows:
            print_line(styled="\t".join(map(printable, row)))
        return
    for line in table_lines(fields, rows, header=header, shortens=shortens):
        print_line(styled=line)


def table_lines(
    fields: Sequence[Field], rows: Iterable[Sequence[str]], *, header: bool = True, shortens: bool = True
) -> Iterator[str]:
    """The lines of a table as wide as the terminal; without `shortens` they are as wide as their cells."""
    remaining = iter(rows)
    width = shutil.get_terminal_size().columns if shortens else None
    while batch := [[*map(printable, row)] for row in islice(remaining, _ROWS_TOGETHER)]:
        widths, gap = _widths(fields, batch, width, header=header)
        if header:
            headings = _line([field.heading for field in fields], fields, widths, gap)
            yield styled(headings, bold=True)
            header = False
        for row in batch:
            yield _line(row, fields, widths, gap)


def _widths(
    fields: Sequence[Field], rows: Sequence[Sequence[str]], available: int | None, *, header: bool
) -> tuple[list[int], int]:
    """The width of each column, and of the gap between two."""
    full = [
        max(_cells(field.heading) if header else 0, *(_cells(row[number]) for row in rows))
        for number, field in enumerate(fields)
    ]
    if available is None:
        return full, _GAP
    lengths = [sorted(_cells(row[number]) for row in rows) for number in range(len(fields))]
    for step, gap in enumerate((_GAP, _SMALL_GAP)):
        widths = list(full)
        excess = sum(widths) + gap * (len(fields) - 1) - available
        while excess > 0 and (number := _to_narrow(fields, widths, lengths, step)) is not None:
            widths[number] -= 1
            excess -= 1
        if excess <= 0:
            break
    return widths, gap


def _to_narrow(
    fields: Sequence[Field], widths: Sequence[int], lengths: Sequence[Sequence[int]], step: int
) -> int | None:
    """The column that loses the fewest characters when it gets narrower: few long names shorten no others.

    None: all have the widths of their floors.
    """

    def loss(number: int) -> tuple[int, int]:
        longer = len(lengths[number]) - bisect_left(lengths[number], widths[number])
        return longer * fields[number].importance, -widths[number]

    narrowable = [
        number
        for number, field in enumerate(fields)
        if field.floors is not None and widths[number] > field.floors[step]
    ]
    return min(narrowable, key=loss, default=None)


def _line(cells: Sequence[str], fields: Sequence[Field], widths: Sequence[int], gap: int) -> str:
    padded = []
    for cell, field, width in zip(cells, fields, widths, strict=True):
        text = shorten(cell, width)
        padded.append(pad(text, width, right=field.is_number))
    return (" " * gap).join(padded).rstrip()


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text with spaces after it (`right`: before it), so that it takes at least `width` cells."""
    spaces = " " * (width - _cells(text))
    return spaces + text if right else text + spaces


def shorten(text: str, width: int) -> str:
    """The text with its middle left out, so that it takes at most `width` cells of a terminal."""
    if _cells(text) <= width:
        return text
    mark = _ellipsis()
    left = max(width - len(mark), 0)
    beginning = _first(text, (left + 1) // 2)
    ending = _first(text[::-1], left - _cells(beginning))[::-1]
    return (beginning + mark + ending)[:width]


def _first(text: str, width: int) -> str:
    """As many first characters as fit into `width` cells."""
    used = 0
    for number, character in enumerate(text):
        used += _cells(character)
        if used > width:
            return text[:number]
    return text


def _ellipsis() -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return "…" if codecs.lookup(encoding).name == "utf-8" else ".."


def _cells(text: str) -> int:
    """The cells that a text takes on a terminal: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len(text)
