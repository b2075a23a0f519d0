"""The requests of the control socket."""

from pykcm.control import listing, statistics, transfer, watching
from pykcm.control import maintenance as keeping
from pykcm.control import modify as changing
from pykcm.control.calls import Request

# pykcm-metrics.service runs as this user.
_METRICS_USER = "pykcm-metrics"

# Root may make every request. Where a request names other users, they may make it as well.
REQUESTS = {
    "list": Request(listing.ListArguments, listing.list_ccaches),
    "show": Request(listing.ShowArguments, listing.show_ccache),
    "destroy": Request(changing.DestroyArguments, changing.destroy),
    "reap": Request(changing.ReapArguments, changing.reap),
    "switch": Request(changing.SwitchArguments, changing.switch),
    "backup": Request(keeping.BackupArguments, keeping.backup),
    "rekey": Request(keeping.RekeyArguments, keeping.rekey),
    "stats": Request(statistics.StatsArguments, statistics.stats, (_METRICS_USER,)),
    "watch": Request(watching.WatchArguments, watching.watch),
    "trace": Request(watching.TraceArguments, watching.trace),
    "export": Request(transfer.ExportArguments, transfer.export_ccaches),
    "import": Request(transfer.ImportArguments, transfer.import_ccaches, takes_frames=True),
}
