"""Output of pykcmctl: tables on a terminal, tab-separated lines in a pipe, JSON, progress bars.

Everything that pykcmctl prints goes through this module, which escapes control characters. Users choose the
names of ccaches and files, and root reads them on a terminal.
"""

import codecs
import io
import json
import os
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import click

from pykcm.protocol.text import is_visible, printable

_T = TypeVar("_T")

# Rows that share one table: the widths of its columns are computed from them.
_ROWS_PER_TABLE = 500

# Smallest widths of a folded column, and of a column of times: narrower ones cannot be read.
_SMALLEST_WIDTH = 12
_DATE_WIDTH = len("2026-11-22")

# Characters between two columns and at both edges of a table, and between two columns where it is too wide.
_GAP, _EDGES = 3, 2
_SMALL_GAP = 1

_KIB = 1024

# The beginning of messages, below which their further lines begin.
_PROGRAM = "pykcmctl: "
# Stands for a space at which no line ends. printable() leaves no such character in a message.
_KEPT_SPACE = "\0"
# Columns: a narrower terminal wraps lines itself; one without a size is taken to be as usual.
_SMALLEST_TERMINAL, _USUAL_TERMINAL = 40, 80

_STDERR = 2

# In seconds.
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


class Column(NamedTuple):
    """A column of a table. Numbers and times are never folded."""

    heading: str
    is_number: bool = False
    is_time: bool = False

    @property
    def is_short(self) -> bool:
        return self.is_number or self.is_time


def is_terminal() -> bool:
    return sys.stdout.isatty()


def never_fail_to_encode() -> None:
    """Escape characters that the locale's encoding lacks, instead of ending the command with an error."""
    for stream in (sys.stdout, sys.stderr):
        # A program that calls this may have replaced the streams by objects without an encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_line(text: str = "", *, styled: str = "", err: bool = False) -> None:
    """Print one line. `styled` is a prefix from click.style() that is not escaped.

    A message on a terminal has as many lines as it needs: the terminal would break it within words.
    """
    line = printable(text)
    click.echo(styled + (_wrapped(line) if err and sys.stderr.isatty() else line), err=err)


def _wrapped(message: str) -> str:
    """The message in lines that fit the terminal: further ones are indented, and no command is broken."""
    if message.startswith(" "):
        # A command below a message, which is copied.
        return message
    indent = " " * len(_PROGRAM) if message.startswith(_PROGRAM) else "  "
    lines = textwrap.wrap(
        re.sub("`[^`]*`", lambda command: command[0].replace(" ", _KEPT_SPACE), message),
        max(_error_width(), _SMALLEST_TERMINAL),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_KEPT_SPACE, " ")


def _error_width() -> int:
    """The columns of the terminal of stderr; shutil's function asks about stdout, which may be a pipe."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_TERMINAL
    except OSError:
        return _USUAL_TERMINAL


def styled(text: str, **style: bool | str | None) -> str:
    """The text in this style of click.style(), unless NO_COLOR (https://no-color.org) or TERM=dumb is set.

    click.echo() leaves styles out where stdout is no terminal.
    """
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if is_plain else click.style(text, **style)  # type: ignore[arg-type]


def print_text(text: str, *, err: bool = False) -> None:
    """Print several lines. Names in the text must be escaped already: a newline in one adds a line."""
    for line in text.split("\n"):
        print_line(line, err=err)


def print_rows(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal, otherwise tab-separated lines; rows are printed as they arrive."""
    remaining = iter(rows)
    if not is_terminal():
        for row in remaining:
            click.echo("\t".join(map(printable, row)))
        return
    is_complete = True
    while is_complete:
        batch: list[list[str]] = []
        try:
            batch.extend([*map(printable, row)] for row in islice(remaining, _ROWS_PER_TABLE))
        finally:
            # Also the rows that came before an error or a signal.
            if batch:
                _print_table(columns, batch)
        is_complete = len(batch) == _ROWS_PER_TABLE


def _print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal; a wider one is wrapped by the terminal, and nothing is cut."""
    # Imported only for a terminal: rich takes longer to import than everything else.
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
        width if column.is_short else min(width, _SMALLEST_WIDTH)
        for column, width in zip(columns, widest, strict=True)
    ]
    is_narrow = sum(floors) + _GAP * (len(columns) - 1) + _EDGES > console.width
    if is_narrow:
        floors = [
            min(floor, _DATE_WIDTH) if column.is_time else floor
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
        # Text: square brackets in a name are not markup.
        table.add_row(*map(Text, row))
    console.print(table)


def show_progress(items: Iterable[_T], total: int | None, description: str) -> Iterator[_T]:
    """Yield the items; on a terminal, show a progress bar on stderr. `total` is None where it is unknown."""
    if not sys.stderr.isatty():
        yield from items
        return
    # Imported only for a terminal: rich takes longer to import than everything else.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def show_cursor() -> None:
    """Undo what a progress bar does first, if a signal came before the bar could put it back itself."""
    # rich may have put an object in place of sys.stderr that knows no terminal. Nothing is buffered in it.
    if os.isatty(_STDERR) and os.environ.get("TERM") != "dumb":
        with suppress(OSError):
            os.write(_STDERR, b"\033[?25h")


def print_json(value: Any, indent: int | None = 2) -> None:
    click.echo(_json(value, indent))


def print_json_array(values: Iterable[Any]) -> None:
    """Print an array, each element as soon as it arrives: the elements are never all in memory."""
    separator = "["
    for value in values:
        click.echo(separator + "\n  " + _json(value), nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def _json(value: Any, indent: int | None = None) -> str:
    r"""JSON that is safe on a terminal: \uNNNN for characters that are unprintable or cannot be encoded."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    is_ascii = codecs.lookup(encoding).name != "utf-8"
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    return "\n".join(map(_printable_json, text.split("\n")))


def _printable_json(line: str) -> str:
    if printable(line) == line:
        return line
    return "".join([c if is_visible(c) else json.dumps(c)[1:-1] for c in line])


def shell_quote(word: str) -> str:
    """The word as it is typed in a shell; unprintable bytes are escaped, which needs $'…' (bash, zsh)."""
    if printable(word) == word:
        return shlex.quote(word)
    escaped = printable(word.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{escaped}'"


def format_time(seconds: int | None) -> str:
    """A time in seconds since the epoch, in the local time zone; "-" for None."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def format_iso(seconds: int | None) -> str:
    """A time as ISO 8601 with the offset of the local time zone; "-" for None."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().isoformat()


def format_expiry(seconds: int | None, now: float) -> str:
    """When something expires, in words: "in 9 h", "expired 5 min ago"; "-" for None."""
    if seconds is None:
        return "-"
    distance = abs(int(seconds - now))
    return (
        f"in {format_rounded_duration(distance)}"
        if seconds > now
        else f"expired {format_rounded_duration(distance)} ago"
    )


def format_rounded_duration(seconds: int) -> str:
    """A duration in the unit in which it is short, rounded down."""
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h"
    return f"{seconds // _DAY} d" if seconds < 2 * _YEAR else f"{seconds // _YEAR} y"


def format_duration(seconds: float) -> str:
    """A duration with its unit: µs, ms or s, with one decimal."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.1f} {_micro()}s"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _micro() -> str:
    try:
        "µ".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "u"
    return "µ"


def format_size(size: int) -> str:
    """A number of bytes with its unit: B, or KiB and MiB with one decimal."""
    if size < _KIB:
        return f"{size} B"
    if size < _KIB * _KIB:
        return f"{size / _KIB:.1f} KiB"
    return f"{size / _KIB / _KIB:.1f} MiB"


def format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def fetch_first(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, with the first one fetched now: an early error is raised before anything is printed."""
    first = list(islice(items, 1))
    return chain(first, items)


# RFC 3961 and its successors, as IANA registers them; the names are MIT's.
_ENCTYPES = {
    1: "des-cbc-crc",
    3: "des-cbc-md5",
    16: "des3-cbc-sha1",
    17: "aes128-cts-hmac-sha1-96",
    18: "aes256-cts-hmac-sha1-96",
    19: "aes128-cts-hmac-sha256-128",
    20: "aes256-cts-hmac-sha384-192",
    23: "arcfour-hmac",
    24: "arcfour-hmac-exp",
    25: "camellia128-cts-cmac",
    26: "camellia256-cts-cmac",
}

# RFC 4120 §5.3 and its successors; bit 0 is the highest of 32 bits. The letters are those of klist -f.
_FLAGS = {
    1: "F",  # forwardable
    2: "f",  # forwarded
    3: "P",  # proxiable
    4: "p",  # proxy
    5: "D",  # may-postdate
    6: "d",  # postdated
    7: "i",  # invalid
    8: "R",  # renewable
    9: "I",  # initial
    10: "A",  # pre-authenticated
    11: "H",  # hardware-authenticated
    12: "T",  # transited-policy-checked
    13: "O",  # ok-as-delegate
    16: "a",  # anonymous
}


def enctype_name(enctype: int) -> str:
    return _ENCTYPES.get(enctype, str(enctype))


def flag_names(flags: int) -> str:
    """Ticket flags as the letters that `klist -f` prints."""
    return "".join([letter for bit, letter in _FLAGS.items() if flags >> (31 - bit) & 1])
