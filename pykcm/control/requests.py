"""The table of requests: their arguments, how they are answered, and who may make them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from pykcm.config import Config
from pykcm.control import listing, maintenance, modify, renewal, statistics, transfer, watching
from pykcm.control.calls import Call

# pykcm-metrics.service runs as this user.
_METRICS_USER = "pykcm-metrics"

# pykcm-renew.service runs as this user, unless the option renewal_user names another one.
_RENEWAL_USER = Config().renewal_user


class Request(NamedTuple):
    """One request: `run` answers it, with items or without. `arguments` is the type of a msgspec.Struct.

    `users`: names of users who may make it as well as administrators.
    `takes_frames`: the client sends further frames behind it; `largest_frame`: in bytes, if they have a limit
    of their own. `keeps_awake`: whether root's connection with it keeps an idle daemon running.
    """

    arguments: type
    run: Callable[[Call], AsyncIterator[Any] | Awaitable[None]]
    users: tuple[str, ...] = ()
    takes_frames: bool = False
    largest_frame: int | None = None
    keeps_awake: bool = True


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
    "renewals": Request(
        renewal.RenewalsArguments, renewal.offer_renewals, (_RENEWAL_USER,), keeps_awake=False
    ),
    "renewed": Request(
        *(renewal.RenewedArguments, renewal.take_renewed, (_RENEWAL_USER,)),
        takes_frames=True,
        largest_frame=renewal.LARGEST_RESULT,
        keeps_awake=False,
    ),
}


def requests_of(config: Config) -> dict[str, Request]:
    """The requests, with the users of the configuration."""
    users = (config.renewal_user,)
    return {
        name: each._replace(users=users) if each.users == (_RENEWAL_USER,) else each
        for name, each in REQUESTS.items()
    }
