"""The machine that the checks examine: its files, units, users and configuration."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pykcm.cli.doctor.systemd import KCM_SOCKET, SERVICE, Unit, read_units
from pykcm.cli.profile import Profile, read_profile
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_SOCKET, Config, config_files, load_config
from pykcm.peer.selinux import Policy, load_policy
from pykcm.store.disk import CREDENTIAL

# The folders in which LoadCredentialEncrypted= looks for a credential without a path.
_CREDENTIAL_STORES = (
    "/etc/credstore.encrypted",
    "/run/credstore.encrypted",
    "/usr/local/lib/credstore.encrypted",
    "/usr/lib/credstore.encrypted",
)

_PROFILE = "/etc/krb5.conf"
SELINUX_MODE = "/sys/fs/selinux/enforce"

# In seconds.
_PROGRAM_TIMEOUT = 10.0


def run_program(argv: Sequence[str]) -> str | None:
    """The program's stdout, whatever its exit status; None if it is missing or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the arguments come from the checks
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
            timeout=_PROGRAM_TIMEOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


@dataclass
class Environment:
    """The machine with its root folder at `root`. `config_file` is the daemon's, None for the default one.

    `answers` keeps what several checks ask the daemon for.
    """

    root: Path = Path("/")
    config_file: Path | None = None
    control_path: str = DEFAULT_CONTROL_SOCKET
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    uid: int = field(default_factory=os.geteuid)
    run: Callable[[Sequence[str]], str | None] = run_program
    load_policy: Callable[[], Policy] = load_policy
    answers: dict[str, Any] = field(default_factory=dict)

    def path(self, path: str | os.PathLike[str]) -> Path:
        """An absolute path of the machine, as a path that can be opened."""
        return self.root / os.fspath(path).lstrip("/")

    @cached_property
    def config(self) -> Config:
        """Raises ConfigError."""
        return load_config(self.config_file)

    @cached_property
    def config_files(self) -> list[Path]:
        """Raises ConfigError."""
        return config_files(self.config_file)

    @cached_property
    def profile(self) -> Profile:
        """krb5.conf as libkrb5 reads it; raises ProfileError."""
        files = self.variables.get("KRB5_CONFIG")
        return read_profile((files or _PROFILE).split(":"), self.path)

    @cached_property
    def has_selinux(self) -> bool:
        return self.path(SELINUX_MODE).exists()

    @cached_property
    def has_systemd(self) -> bool:
        return self.path("/run/systemd/system").is_dir()

    @property
    def restart_command(self) -> str:
        """The command that restarts the daemon; a comment where systemd does not start it."""
        return f"systemctl restart {SERVICE}" if self.has_systemd else "# restart pykcmd"

    @property
    def log_command(self) -> str:
        """The command that shows the end of the daemon's log; a comment where that is not in the journal."""
        return f"journalctl -u {SERVICE} -n 20" if self.has_systemd else "# read the log of pykcmd"

    @cached_property
    def units(self) -> Mapping[str, Unit]:
        """Units by name; empty if systemd does not run or answer. Without D-Bus, it answers only to root."""
        return read_units(self.run) if self.has_systemd else {}

    def unit(self, name: str) -> Unit:
        return self.units.get(name, Unit(name))

    @property
    def why_no_units(self) -> str | None:
        """Why the units are unknown; None if they are known."""
        if not self.has_systemd:
            return "systemd does not run here"
        return None if self.units else "needs root: systemctl does not answer"

    @cached_property
    def daemon_is_here(self) -> bool:
        """Whether the daemon belongs to this machine. A container only has the socket."""
        return (
            self.unit(KCM_SOCKET).loaded
            or self.unit(SERVICE).loaded
            or bool(self.config_files)
            or self.path(self.config.state_dir).exists()
        )

    @cached_property
    def daemon_sockets(self) -> tuple[str, ...]:
        """The paths where the daemon listens, or will listen once started; raises ConfigError."""
        unit = self.unit(KCM_SOCKET)
        return unit.listen if unit.loaded and unit.listen else (self.config.socket_path,)

    @cached_property
    def client_socket(self) -> str:
        """The path that MIT's clients connect to; raises ProfileError."""
        found = self.profile.get("libdefaults", "kcm_socket")
        return DEFAULT_SOCKET if found is None else found.value

    @cached_property
    def service_uid(self) -> int | None:
        """The UID that the service runs as; None if unknown."""
        user = self.unit(SERVICE).user
        return self._uid_of(user) if user else None

    @property
    def key_credential(self) -> str | None:
        """The file of the credential with the key; None if there is none. See `credential`."""
        return self.credential(CREDENTIAL)

    def credential(self, name: str) -> str | None:
        """The file of a credential that systemd gives to the service; None if there is none.

        Raises PermissionError if that is unknown.
        """
        if not self.has_systemd:
            return None
        for folder in _CREDENTIAL_STORES:
            file = f"{folder}/{name}"
            try:
                self.path(file).lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            return file
        return None

    def _uid_of(self, user: str) -> int | None:
        if user.isdigit():
            return int(user)
        passwd = self.run(["getent", "passwd", user]) or ""
        fields = passwd.split(":")
        return int(fields[2]) if len(fields) > 2 and fields[2].isdigit() else None
