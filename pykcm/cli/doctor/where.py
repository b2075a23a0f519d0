"""Where the checks look: this machine, or a folder that stands for one."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pykcm.cli.doctor.systemd import KCM_SOCKET, SERVICE, Unit, read_units
from pykcm.cli.profile import Profile, read_profile
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_SOCKET, Config, config_files, load_config
from pykcm.peer.selinux import Policy, load_policy

_PROFILE = "/etc/krb5.conf"
SELINUX_MODE = "/sys/fs/selinux/enforce"

# In seconds.
_PATIENCE = 10.0


def run_program(argv: Sequence[str]) -> str | None:
    """What the program prints, whatever its exit status; None where there is none or it takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - the checks' own words, and no shell
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
            timeout=_PATIENCE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


@dataclass
class Where:
    """`root` is the folder that paths are below; the daemon reads `config_file`, None for the default one."""

    root: Path = Path("/")
    config_file: Path | None = None
    control_path: str = DEFAULT_CONTROL_SOCKET
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    uid: int = field(default_factory=os.geteuid)
    run: Callable[[Sequence[str]], str | None] = run_program
    load_policy: Callable[[], Policy] = load_policy

    def path(self, path: str | os.PathLike[str]) -> Path:
        """An absolute path of the machine, where it can be opened."""
        return self.root / os.fspath(path).lstrip("/")

    # What several checks go by

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
        """krb5.conf as libkrb5 sees it; raises ProfileError."""
        given = self.environment.get("KRB5_CONFIG")
        return read_profile((given or _PROFILE).split(":"), self.path)

    @cached_property
    def has_selinux(self) -> bool:
        return self.path(SELINUX_MODE).exists()

    @cached_property
    def has_systemd(self) -> bool:
        return self.path("/run/systemd/system").is_dir()

    @cached_property
    def units(self) -> Mapping[str, Unit]:
        """By name; none where systemd does not run, or does not answer: without D-Bus it does root alone."""
        return read_units(self.run) if self.has_systemd else {}

    def unit(self, name: str) -> Unit:
        return self.units.get(name, Unit(name))

    @property
    def why_no_units(self) -> str | None:
        """Why nothing is known of units; None where they are known."""
        if not self.has_systemd:
            return "systemd does not run here"
        return None if self.units else "needs root: systemctl does not answer"

    @cached_property
    def daemon_is_here(self) -> bool:
        """Whether the daemon is this machine's; a container has merely been given a socket."""
        return (
            self.unit(KCM_SOCKET).loaded
            or self.unit(SERVICE).loaded
            or bool(self.config_files)
            or self.path(self.config.state_dir).exists()
        )

    @cached_property
    def daemon_sockets(self) -> tuple[str, ...]:
        """Where the daemon listens, or is to; raises ConfigError."""
        unit = self.unit(KCM_SOCKET)
        return unit.listen if unit.loaded and unit.listen else (self.config.socket_path,)

    @cached_property
    def client_socket(self) -> str:
        """Where MIT's clients connect to; raises ProfileError."""
        found = self.profile.get("libdefaults", "kcm_socket")
        return DEFAULT_SOCKET if found is None else found.value

    @cached_property
    def service_uid(self) -> int | None:
        """The UID that the service runs as; None where that is not known."""
        user = self.unit(SERVICE).user
        return self._uid_of(user) if user else None

    def _uid_of(self, user: str) -> int | None:
        if user.isdigit():
            return int(user)
        passwd = self.run(["getent", "passwd", user]) or ""
        fields = passwd.split(":")
        return int(fields[2]) if len(fields) > 2 and fields[2].isdigit() else None
