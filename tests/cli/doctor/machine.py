"""A fake machine for the doctor: a folder with files and sockets, and the output of systemctl."""

import shlex
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Result
from pykcm.config import DEFAULT_SOCKET

CONTROL = "/run/pykcm/control.sock"

# A name with characters that are special for a shell, sed and printf.
ODD = r"it's $(false) #1 %s & \co;"


def words(result: Result) -> list[list[str]]:
    """The words of each command of the remedy, as a shell splits them."""
    return [shlex.split(command) for command in result.remedy]


class Machine:
    """A machine below `root`. `units` has the properties of each unit; other units do not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.units: dict[str, dict[str, str | list[str]]] = {}
        self.users: dict[str, int] = {}
        self.variables: dict[str, str] = {}
        self.at_end = ExitStack()
        self.config_file = self.write("/etc/pykcm/pykcm.toml", "")

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> Path:
        real = self.path(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_bytes(text if isinstance(text, bytes) else text.encode())
        real.chmod(mode)
        return real

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def folder(self, path: str, mode: int = 0o755) -> Path:
        real = self.path(path)
        real.mkdir(parents=True, exist_ok=True)
        real.chmod(mode)
        return real

    def listen(self, path: str = DEFAULT_SOCKET, mode: int = 0o666) -> socket.socket:
        """Listen at a path with a socket of this process, which answers nothing."""
        real = self.path(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        sock = self.at_end.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(str(real))
        real.chmod(mode)
        sock.listen()
        return sock

    def has_systemd(self) -> None:
        self.folder("/run/systemd/system")

    def installed(self) -> None:
        """Add systemd and pykcm's units, as docs/install.md installs them."""
        self.has_systemd()
        self.users["pykcm"] = 990
        running = {"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active"}
        self.units |= {
            "pykcm.socket": running | {"Listen": [f"{DEFAULT_SOCKET} (Stream)"]},
            "pykcm-control.socket": running | {"Listen": [f"{CONTROL} (Stream)"]},
            "pykcm.service": {
                "LoadState": "loaded",
                "UnitFileState": "disabled",
                "ActiveState": "inactive",
                "User": "pykcm",
            },
        }

    def run(self, argv: Sequence[str]) -> str | None:
        """Answer in place of systemctl and getent."""
        if argv[:2] == ["getent", "passwd"]:
            uid = self.users.get(argv[2])
            return "" if uid is None else f"{argv[2]}:x:{uid}:{uid}::/:/bin/sh\n"
        assert argv[:2] == ["systemctl", "show"]
        names = [each for each in argv[2:] if not each.startswith("-")]
        return "\n".join(self._shown(name) for name in names)

    def _shown(self, name: str) -> str:
        unit = {
            "Id": name,
            "LoadState": "not-found",
            "UnitFileState": "",
            "ActiveState": "inactive",
            "NeedDaemonReload": "no",
        } | self.units.get(name, {})
        lines = [
            f"{key}={value}\n"
            for key, values in unit.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        return "".join(lines)

    def environment(self, **changes: Any) -> Environment:
        """The machine as the doctor sees it when root runs it."""
        given: dict[str, Any] = {
            "root": self.root,
            "config_file": self.config_file,
            "control_path": CONTROL,
            "variables": self.variables,
            "uid": 0,
            "run": self.run,
        }
        return Environment(**given | changes)

    def do(self, commands: Sequence[str]) -> None:
        """Run commands with this machine's /etc mounted over the real one."""
        script = f'mount --bind "$1" /etc && {" && ".join(commands)}'
        subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", self.path("/etc")],
            check=True,
            timeout=60,
        )
