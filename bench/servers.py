"""The servers that need no installation: pykcmd in its variants, and the echo server."""

from pathlib import Path

from bench.build import build
from bench.paths import PYKCMD
from bench.processes import Server, environment

# Some workloads exceed the default quotas, and the tickets in a kept state have expired.
_CONFIGURATION = """\
durability = "{durability}"
max_ccaches = 0
max_uid_ccaches = 0
max_ccache_size = 0
max_uid_size = 0
max_ccache_credentials = 0
max_uid_credentials = 0
max_request_size = 65536
expired_retention = "3650d"
"""


class Pykcm(Server):
    """pykcmd with the SQLCipher store; its state may exist already.

    `sync_time`: seconds added to each sync of a file.
    """

    def __init__(self, name: str, folder: Path, durability: str = "full", *, sync_time: float = 0.0) -> None:
        folder.mkdir(mode=0o755, exist_ok=True)
        super().__init__(name, folder, folder / "kcm.sock")
        self.sync_time = sync_time
        self.state = folder / "state"
        self.state.mkdir(mode=0o700, exist_ok=True)
        self._configuration = folder / "pykcm.toml"
        self._configuration.write_text(_CONFIGURATION.format(durability=durability))

    def command(self) -> list[str]:
        return [
            *(str(PYKCMD), "--config", str(self._configuration)),
            *("--socket-path", str(self.socket_path), "--state-dir", str(self.state)),
            *("--log-level", "warning"),
        ]

    def environment(self) -> dict[str, str]:
        if not self.sync_time:
            return super().environment()
        library = build("slow_sync", "-shared", "-fPIC")
        return environment(LD_PRELOAD=str(library), SLOW_SYNC_US=str(int(self.sync_time * 1_000_000)))

    def database_size(self) -> int:
        """Return the size of all files of the database in bytes, after the daemon's end."""
        return sum(file.stat().st_size for file in self.state.glob("pykcm.db*"))


class Echo(Server):
    """The bare limit: a server that sends replies of the requested sizes and does nothing else."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        super().__init__("echo", folder, folder / "echo.sock")

    def command(self) -> list[str]:
        return [str(build("limits")), "echo", str(self.socket_path)]
