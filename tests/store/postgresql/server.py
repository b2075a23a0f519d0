"""A PostgreSQL server of a test's own, in a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

# In Debian's packages the programs are not in PATH.
_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def bin_folder() -> Path | None:
    """The folder of initdb and postgres; None: PostgreSQL is not installed."""
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else next(iter(_FOLDERS), None)


class PostgreSQL:
    """Starts, stops and kills a server, whose data and socket are in `folder`. It does not run as root."""

    def __init__(self, folder: Path) -> None:
        found = bin_folder()
        assert found is not None
        self._bin = found
        self.folder = folder
        self._user = "nobody" if os.geteuid() == 0 else None
        folder.mkdir()
        if self._user:
            nobody = pwd.getpwnam(self._user)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._run("initdb", "--no-sync", "--username=admin", "--auth=trust", "--encoding=UTF8", "data")
        self.port = 5432
        (folder / "data/postgresql.conf").write_text(
            f"unix_socket_directories = '{folder}'\nlisten_addresses = ''\nfsync = off\n"
            "max_connections = 100\nshared_buffers = 16MB\n"
        )

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=admin dbname=postgres"

    def start(self) -> None:
        """Returns when it accepts connections."""
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-l", "log", "start")

    def stop(self, mode: str = "fast") -> None:
        """`mode`: smart, fast, or immediate, which is a crash."""
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._bin / program), *arguments]
        # It must not keep what pytest reads.
        with (self.folder / "output").open("ab") as output:
            done = subprocess.run(
                command,
                check=False,
                cwd=self.folder,
                user=self._user,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        assert done.returncode == 0, self._last_lines()

    def _last_lines(self) -> str:
        """The ends of the programs' output and of the server's log, for a failure."""
        files = [file for file in (self.folder / "output", self.folder / "log") if file.exists()]
        return "".join(line for file in files for line in file.read_text().splitlines(keepends=True)[-20:])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
