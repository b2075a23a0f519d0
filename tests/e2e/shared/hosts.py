"""Daemons that share one database, as they do on different hosts: nothing but it and the key is common."""

from pathlib import Path

from pykcm.store.postgresql.sealing import SharedKey
from tests.e2e.control import Pykcmctl
from tests.e2e.daemon import Pykcmd

from .servers import DATABASE, ROLE, Server

RAW_KEY = bytes(range(32))
KEY = SharedKey(RAW_KEY)


class Host(Pykcmd):
    """A daemon with its own sockets and state, in `folder`."""

    def __init__(self, folder: Path, conninfo: str, *, raw_key: bytes = RAW_KEY, options: str = "") -> None:
        folder.mkdir()
        folder.chmod(0o755)
        super().__init__(folder, store="postgresql")
        self.key_path = folder / "key"
        self.key_path.touch(0o600)
        self.key_path.write_bytes(raw_key)
        self.options_text = options
        self.connect_to(conninfo)

    @property
    def options(self) -> list[str]:
        # Without a log level, which is the configuration's.
        return super().options[:-2]

    def connect_to(self, conninfo: str, options: str | None = None) -> None:
        """Set the connection string for the next start, and the other options."""
        self.options_text = self.options_text if options is None else options
        self.configure(
            f'store = "postgresql"\npostgresql = "{conninfo}"\n'
            f'key_file = "{self.key_path}"\n{self.options_text}'
        )

    @property
    def ctl(self) -> Pykcmctl:
        return Pykcmctl(self.control_path)

    def check(self) -> tuple[int, str]:
        """The exit status and the output of `pykcmctl store check`."""
        said = self.ctl.run("store", "check", "--config", str(self.config_path))
        return said.status, said.output + said.errors


def by_socket(server: Server) -> str:
    """The connection string of a host on the server's machine."""
    return f"host={server.folder} port={server.port} user={ROLE} dbname={DATABASE}"


def by_tcp(*ports: int) -> str:
    """The connection string of a host that uses the first of these ports whose server accepts changes."""
    hosts, numbers = ",".join(["127.0.0.1"] * len(ports)), ",".join(map(str, ports))
    which = "" if len(ports) == 1 else " target_session_attrs=read-write connect_timeout=2"
    return (
        f"host={hosts} port={numbers} user={ROLE} dbname={DATABASE} sslmode=disable gssencmode=disable{which}"
    )
