"""A private pykcmd, for this process and its children."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pykcm
from pykcm.client import KcmClient
from pykcm.testing.environment import environment_of
from pykcm.testing.guarded import Guarded, ThrowAway

# The daemon can import what the tests can, which may be in folders that only their interpreter knows.
_PROGRAM = """
import sys
sys.path += [path for path in sys.argv.pop(1).split(":") if path not in sys.path]
sys.argv[0] = "pykcmd"
from pykcm.programs import pykcmd
sys.exit(pykcmd())
"""

# A daemon that is started by a test is no service of systemd, and has none of its files.
_OF_SERVICES = ("LISTEN_", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY", "MANAGERPID")

# Heimdal's clients have a fixed path for the socket.
_KRB5_CONF = """\
[libdefaults]
    kcm_socket = {socket}
    default_ccache_name = KCM:
"""

Option = str | int | float | bool


class KcmServer(ThrowAway):
    """A KCM server in a folder of its own, without root and without a port.

    `options` are those of pykcm.toml(5): `KcmServer(max_uid_ccaches=4)`. The ccaches are in the daemon's
    memory and end with it, unless `store` is "sqlcipher". `environment` has the variables for a child
    process; for this process see `activate`.
    """

    takes_precedence = True

    def __init__(self, *, store: str = "memory", **options: Option) -> None:
        super().__init__("pykcmd.log")
        self.socket_path = self.folder / "kcm.sock"
        self.control_path = self.folder / "control.sock"
        self._config = self.folder / "pykcm.toml"
        self.variables: Mapping[str, str] = MappingProxyType({"KRB5CCNAME": "KCM:"})
        self.krb5_conf.write_text(_KRB5_CONF.format(socket=self.socket_path))
        (self.folder / "state").mkdir(mode=0o700)
        chosen = {
            "socket_path": str(self.socket_path),
            "control_socket_path": str(self.control_path),
            "state_dir": str(self.folder / "state"),
            "store": store,
            **options,
        }
        # Strings, numbers and booleans are written in TOML as in JSON.
        self._config.write_text("".join(f"{name} = {json.dumps(each)}\n" for name, each in chosen.items()))

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a child process uses this server, without a realm."""
        return environment_of(self)

    def _launched(self) -> Guarded:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "KRB5", *_OF_SERVICES))
        }
        paths = ":".join([str(Path(pykcm.__file__).parents[1]), *filter(None, sys.path)])
        command = [sys.executable, "-c", _PROGRAM, paths, "--config", str(self._config)]
        return Guarded(command, self.temporary_folder, self.log_path, environment)

    def _serves(self) -> bool:
        try:
            with KcmClient(self.socket_path) as kcm:
                kcm.noop()
        except OSError:
            return False
        return True

    def ccache(self, name: str = "", uid: int | None = None) -> str:
        """Return the name of a ccache for KRB5CCNAME: the user's first one, or one more with this name."""
        uid = os.geteuid() if uid is None else uid
        return f"KCM:{uid}:{name}" if name else f"KCM:{uid}"

    def clear(self) -> None:
        """Destroy all ccaches, and start the daemon if it does not run."""
        self.start()
        with KcmClient(self.socket_path) as kcm:
            for uuid in kcm.get_cache_uuid_list():
                kcm.destroy(kcm.get_cache_by_uuid(uuid))
            # This name is the default if no other one is chosen.
            kcm.set_default_cache(b"%d" % os.geteuid())
        if os.geteuid() == 0 and self._has_ccaches():
            # They belong to other users, with their own default ccaches.
            self.stop()
            shutil.rmtree(self.folder / "state")
            (self.folder / "state").mkdir(mode=0o700)
            self.start()

    def _has_ccaches(self) -> bool:
        from pykcm.cli.client import ControlClient  # noqa: PLC0415 - only root's tests need it

        (stats,) = ControlClient(self.control_path).ask("stats")
        return bool(stats["ccaches"])
