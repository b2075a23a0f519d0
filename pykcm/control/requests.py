"""The table of requests: their arguments, how they are answered, and who may make them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from pykcm.control import listing, maintenance, modify, statistics, transfer, watching
from pykcm.control.calls import Call

# pykcm-metrics.service runs as this user.
_METRICS_USER = "pykcm-metrics"


class Request(NamedTuple):
    """One request: `run` answers it, with items or without. `arguments` is the type of a msgspec.Struct.

    `users`: names of users who may make it as well as administrators.
    `takes_frames`: the client sends further frames behind it.
    """

    arguments: type
    run: Callable[[Call], AsyncIterator[Any] | Awaitable[None]]
    users: tuple[str, ...] = ()
    takes_frames: bool = False


# Root may make every request. Other users may make the requests that name them.
REQUESTS = {
    "list": Request(listing.ListArguments, listing.list_ccaches),
    "show": Request(listing.ShowArguments, listing.show_ccache),
    "destroy": Request(modify.DestroyArguments, modify.destroy),
    "reap": Request(modify.ReapArguments, modify.reap),
    "switch": Request(modify.SwitchArguments, modify.switch),
    "backup": Request(maintenance.BackupArguments, maintenance.backup),
    "rekey": Request(maintenance.RekeyArguments, maintenance.rekey),
    "stats": Request(statistics.StatsArguments, statistics.stats, (_METRICS_USER,)),
    "watch": Request(watching.WatchArguments, watching.watch),
    "trace": Request(watching.TraceArguments, watching.trace),
    "export": Request(transfer.ExportArguments, transfer.export_ccaches),
    "import": Request(transfer.ImportArguments, transfer.import_ccaches, takes_frames=True),
}
