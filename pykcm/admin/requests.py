"""The requests of the control socket."""

from pykcm.admin import changing, keeping, listing, statistics, transfer, watching
from pykcm.admin.calls import Request

REQUESTS = {
    "list": Request(listing.ListArguments, listing.list_ccaches),
    "show": Request(listing.ShowArguments, listing.show_ccache),
    "destroy": Request(changing.DestroyArguments, changing.destroy),
    "reap": Request(changing.ReapArguments, changing.reap),
    "switch": Request(changing.SwitchArguments, changing.switch),
    "backup": Request(keeping.BackupArguments, keeping.backup),
    "rekey": Request(keeping.RekeyArguments, keeping.rekey),
    "stats": Request(statistics.StatsArguments, statistics.stats),
    "watch": Request(watching.WatchArguments, watching.watch),
    "trace": Request(watching.TraceArguments, watching.trace),
    "export": Request(transfer.ExportArguments, transfer.export_ccaches),
    "import": Request(transfer.ImportArguments, transfer.import_ccaches),
}
