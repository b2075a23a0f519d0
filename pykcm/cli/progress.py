"""How far something is, shown on a terminal while it goes on."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def followed(items: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """The same items; on a terminal a bar on stderr tells how many of `total` have come."""
    if not sys.stderr.isatty():
        yield from items
        return
    # Imported by those who see it: it takes longer than all the rest.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task)
