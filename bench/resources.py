"""The memory and the disk space that credentials take."""

from collections.abc import Callable
from pathlib import Path

from bench.load import CREDENTIAL_SIZE, LoadOptions, run_load
from bench.processes import Server
from bench.servers import Pykcm
from bench.workloads import DATABASE, FIRST_UID, IDLE, PYKCM, READ, STORED, Figures
from pykcm.client import KcmClient

MIB = 1 << 20
_CCACHES = 16


def measure_resources(folder: Path, figures: Figures, bytes_of_credentials: int, *, is_root: bool) -> None:
    """Fill a daemon with credentials, and read all of them again after a restart."""
    server = Pykcm("pykcm", folder)
    load = LoadOptions(
        "fill",
        credentials=bytes_of_credentials // _CCACHES // CREDENTIAL_SIZE,
        connections=_CCACHES,
        first_uid=FIRST_UID if is_root else None,
    )
    with server.running():
        idle = idle_size(server)
        figures.add(IDLE.key, PYKCM, idle / MIB)
        size = run_load(server, load).bytes
        figures.add(STORED.key, PYKCM, (server.resident_size() - idle) / size)
    figures.add(DATABASE.key, PYKCM, server.database_size() / size)
    with server.running():
        idle = idle_size(server)
        with KcmClient(server.socket_path) as client:
            default = client.get_default_cache()
            for i in range(_CCACHES):
                prefix = b"%d" % (FIRST_UID + i) if is_root else default
                client.get_cred_list(b"%s:load%d" % (prefix, i))
        figures.add(READ.key, PYKCM, (server.resident_size() - idle) / size)


def idle_size(server: Server, request: Callable[[KcmClient], object] = KcmClient.noop) -> int:
    """Return the resident size in bytes after one request, by default one that reads no ccache."""
    with KcmClient(server.socket_path) as client:
        request(client)
    return server.resident_size()
