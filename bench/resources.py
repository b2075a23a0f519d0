"""Memory and disk: what credentials cost there."""

from collections.abc import Callable
from pathlib import Path

from bench.load import CREDENTIAL_SIZE, Kind, run_load
from bench.processes import Server
from bench.servers import Pykcm
from bench.workloads import DATABASE, FIRST_UID, IDLE, PYKCM, READ, STORED, Figures
from pykcm.client import KcmClient

MIB = 1 << 20
_CCACHES = 16


def measure_resources(folder: Path, figures: Figures, bytes_of_credentials: int, *, is_root: bool) -> None:
    """Fill a pykcmd, and read all of it again after a restart."""
    server = Pykcm("pykcm", folder)
    kind = Kind(
        "fill",
        credentials=bytes_of_credentials // _CCACHES // CREDENTIAL_SIZE,
        connections=_CCACHES,
        first_uid=FIRST_UID if is_root else None,
    )
    with server.running():
        idle = idle_size(server)
        figures.add(IDLE.key, PYKCM, idle / MIB)
        size = run_load(server, kind).bytes
        figures.add(STORED.key, PYKCM, (server.resident_size() - idle) / size)
    figures.add(DATABASE.key, PYKCM, server.database_size() / size)
    with server.running():
        idle = idle_size(server)
        with KcmClient(server.socket_path) as client:
            own = client.get_default_cache()
            for i in range(_CCACHES):
                uid = b"%d" % (FIRST_UID + i) if is_root else own
                client.get_cred_list(b"%s:load%d" % (uid, i))
        figures.add(READ.key, PYKCM, (server.resident_size() - idle) / size)


def idle_size(server: Server, first: Callable[[KcmClient], object] = KcmClient.noop) -> int:
    """Resident size in bytes after a first request, by default one that no ccache is read for."""
    with KcmClient(server.socket_path) as client:
        first(client)
    return server.resident_size()
