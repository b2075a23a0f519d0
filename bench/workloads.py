"""The workloads of the benchmark's goals, and the servers that each runs on."""

from dataclasses import dataclass, field
from typing import Literal

from bench.load import LoadOptions

# Names of servers. The variants of pykcm share a column of the table.
PYKCM, PYKCM_NORMAL, PYKCM_EMPTY, PYKCM_MANY = "pykcm", "pykcm normal", "pykcm empty", "pykcm many"
HEIMDAL, SSSD = "heimdal", "sssd"
ECHO, APPEND, OVERWRITE = "echo", "append", "overwrite"

ALL = (PYKCM, HEIMDAL, SSSD, ECHO)

Unit = Literal["µs", "/s", "ms", "MiB", "x"]

# UIDs from here on belong to no account.
FIRST_UID = 1_000_001


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of figures. `key` selects it on the command line."""

    key: str
    title: str
    load: LoadOptions | None = None
    servers: tuple[str, ...] = ALL
    unit: Unit = "µs"
    needs_root: bool = False


def _at(title: str, workload: str, credentials: int) -> Workload:
    return Workload(
        f"{workload}-{credentials}",
        f"{title} {credentials:,}",
        LoadOptions(workload, credentials),
        # Filling sssd would take minutes.
        ALL if credentials < 1000 else (PYKCM, HEIMDAL, ECHO),
    )


def workloads(many: int) -> list[Workload]:
    """Return all workloads in the order of the table; `many`: stored ccaches at the start with many."""
    return [
        Workload("ping", "ping", LoadOptions("ping")),
        _at("list, new connection, of", "list", 20),
        _at("list, new connection, of", "list", 200),
        _at("retrieve in", "retrieve", 20),
        _at("retrieve in", "retrieve", 5000),
        Workload("store", "store, full durability", LoadOptions("store", 20), (PYKCM, SSSD, APPEND)),
        Workload(
            "store-normal",
            "store, durability normal",
            LoadOptions("store", 20),
            (PYKCM_NORMAL, HEIMDAL, ECHO),
        ),
        Workload("overwrite", "(fdatasync within a file)", servers=(OVERWRITE,)),
        Workload("replace-10", "replace of a ccache of 10", LoadOptions("replace", 10), (PYKCM, ECHO)),
        Workload("storeat-50", "store at 50", LoadOptions("storeat", 50), (PYKCM, HEIMDAL)),
        Workload("storeat-5000", "store at 5,000", LoadOptions("storeat", 5000), (PYKCM, HEIMDAL)),
        Workload("kinit", "kinit, new connection", LoadOptions("kinit")),
        Workload("connections-16", "16 connections, ping", LoadOptions("ping", connections=16), unit="/s"),
        Workload(
            "uids-1",
            "1 UID storing",
            LoadOptions("store", 20, first_uid=FIRST_UID),
            ALL[:-1],
            "/s",
            needs_root=True,
        ),
        Workload(
            "uids-16",
            "16 UIDs storing at once",
            LoadOptions("store", 20, 16, first_uid=FIRST_UID),
            ALL[:-1],
            "/s",
            needs_root=True,
        ),
        Workload(
            "uid-connections-16",
            "1 UID storing into 16 ccaches at once",
            LoadOptions("store", 20, 16),
            ALL[:-1],
            "/s",
            needs_root=True,
        ),
        Workload("start-0", "start to first reply, 0 ccaches", LoadOptions("start"), (PYKCM_EMPTY,), "ms"),
        Workload(
            "start-many",
            f"start to first reply, {many:,} ccaches",
            LoadOptions("start"),
            (PYKCM_MANY,),
            "ms",
            needs_root=True,
        ),
    ]


# They are measured once, after the rounds.
IDLE = Workload("memory-idle", "resident size, idle", unit="MiB", servers=(PYKCM, HEIMDAL, SSSD))
STORED = Workload(
    "memory-stored", "growth of resident size by credentials stored", unit="x", servers=(PYKCM,)
)
READ = Workload("memory-read", "the same by credentials read from the database", unit="x", servers=(PYKCM,))
DATABASE = Workload("database", "database size", unit="x", servers=(PYKCM,))
RESOURCES = (IDLE, STORED, READ, DATABASE)


@dataclass(slots=True)
class Figures:
    """Measured values: by workload and server, one for each round, in the workload's unit."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, workload: str, server: str, value: float) -> None:
        self.values.setdefault((workload, server), []).append(value)

    def of(self, workload: str, *servers: str) -> list[float]:
        """Return the values of the first of the servers that has any."""
        return next((self.values[workload, s] for s in servers if (workload, s) in self.values), [])
