"""Checks of the sockets: that they exist, who listens, and who may connect."""

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import CONTROL_SOCKET, KCM_SOCKET
from pykcm.cli.doctor.units import start_commands
from pykcm.cli.names import format_user
from pykcm.cli.output import shell_quote
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_SOCKET
from pykcm.peer.identity import listener_of
from pykcm.processes import describe_process
from pykcm.sockets.bound_socket import folder_of_others
from pykcm.sockets.connecting import connect

_SYSTEMD = 1

# Other KCM servers, by the process name in /proc/PID/comm.
_OTHER_SERVERS = {"sssd_kcm": "sssd-kcm", "kcm": "Heimdal's kcm"}

# In seconds.
_CONNECT_TIMEOUT = 5.0


class Listener(NamedTuple):
    """The process that called listen(); `pid` is 0 for one in another PID namespace."""

    pid: int
    uid: int

    def __str__(self) -> str:
        if not self.pid:
            return f"a process of {format_user(self.uid)} outside of this container"
        return f"{describe_process(self.pid)} of {format_user(self.uid)}"


def find_listener(path: Path) -> Listener:
    """The process that listens at `path`, from the kernel; raises OSError."""
    with connect(path, _CONNECT_TIMEOUT) as probe:
        return Listener(*listener_of(probe))


def process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def kcm_socket(environment: Environment) -> Result:
    """Check that pykcm listens where clients connect, and that everyone may connect."""
    name = environment.client_socket
    path = environment.path(name)
    try:
        status = path.stat()
    except FileNotFoundError:
        return failed(f"{name} does not exist: no KCM server runs", *start_commands(environment, KCM_SOCKET))
    if not stat.S_ISSOCK(status.st_mode):
        # Container engines leave an empty folder as a mount point. A folder with content must stay.
        remove = "rmdir" if stat.S_ISDIR(status.st_mode) else "rm"
        return failed(
            f"{name} is not a socket",
            f"ls -l {shell_quote(name)}",
            f"{remove} {shell_quote(name)}",
            *start_commands(environment, KCM_SOCKET),
        )
    if status.st_mode & 0o222 != 0o222:
        mode = stat.S_IMODE(status.st_mode)
        return failed(
            f"{name}: not everyone may connect (mode {mode:04o})", f"chmod 0666 {shell_quote(name)}"
        )
    closed = _closed_folder(environment, path)
    if closed is not None:
        return failed(f"{name}: not everyone may enter {closed}", f"chmod o+x {shell_quote(str(closed))}")
    try:
        listener = find_listener(path)
    except OSError as error:
        return _connect_error(name, error, start_commands(environment, KCM_SOCKET))
    return _listener_result(environment, name, listener)


def _closed_folder(environment: Environment, path: Path) -> Path | None:
    for folder in path.parents:
        if folder == environment.root:
            break
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _connect_error(name: str, error: OSError, start: tuple[str, ...]) -> Result:
    if error.errno == errno.ECONNREFUSED:
        return failed(f"{name}: nobody listens; its server has ended", f"rm -f {shell_quote(name)}", *start)
    if isinstance(error, TimeoutError):
        return failed(f"{name}: the server does not accept connections", *start)
    return failed(
        f"{name}: connecting fails: {error.strerror}",
        f"ls -lZd {shell_quote(name)} {shell_quote(str(Path(name).parent))}",
    )


def _listener_result(environment: Environment, name: str, listener: Listener) -> Result:
    other_server = _OTHER_SERVERS.get(process_name(listener.pid)) if listener.pid else None
    if other_server is not None:
        return failed(
            f"{name}: {other_server} listens ({listener}), not pykcm",
            "pykcmctl doctor  # see other KCM servers",
        )
    # Once started, the daemon itself listens on systemd's socket.
    if listener.pid == _SYSTEMD and environment.units:
        unit = environment.unit(KCM_SOCKET)
        if not unit.runs or name not in unit.listen:
            return failed(
                f"{name}: systemd listens, but not for {KCM_SOCKET}", "systemctl list-sockets --show-types"
            )
        return ok(f"{name}: systemd listens for {KCM_SOCKET}, everyone may connect")
    return ok(f"{name}: {listener} listens, everyone may connect")


def control_socket(environment: Environment) -> Result:
    """Check that only root may use the control socket, and that a daemon listens."""
    name = environment.control_path
    try:
        status = environment.path(name).stat()
    except FileNotFoundError:
        configured = _configured_control_path(environment)
        if not configured:
            return skipped("the daemon has no control socket, or does not run on this machine")
        if configured != name:
            return warning(
                f"{name} does not exist: the daemon's control socket is {configured}",
                f"export PYKCM_CONTROL_SOCKET={shell_quote(configured)}",
            )
        return warning(
            f"{name} does not exist: pykcmctl finds no daemon", *start_commands(environment, CONTROL_SOCKET)
        )
    if not stat.S_ISSOCK(status.st_mode):
        return failed(f"{name} is not a socket", f"ls -l {shell_quote(name)}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return failed(
            f"{name}: users other than its owner may connect (mode {mode:04o})",
            f"chmod 0600 {shell_quote(name)}",
        )
    if status.st_uid not in {0, environment.service_uid}:
        return warning(
            f"{name} belongs to {format_user(status.st_uid)}, not to root", f"chown root: {shell_quote(name)}"
        )
    folder = folder_of_others(os.fspath(environment.path(name)), {0, status.st_uid}, top=environment.root)
    if folder is not None:
        return failed(
            f"{name}: users other than root can replace the socket, because they can write to {folder}",
            f"ls -ld {shell_quote(str(folder))}",
            f"chown root: {shell_quote(str(folder))}",
            f"chmod go-w {shell_quote(str(folder))}",
        )
    if environment.uid != 0:
        return skipped(f"needs root: only root may connect to {name}, as it should be")
    try:
        listener = find_listener(environment.path(name))
    except OSError as error:
        return _connect_error(name, error, start_commands(environment, CONTROL_SOCKET))
    return ok(f"{name}: {listener} listens, only root may connect")


def _configured_control_path(environment: Environment) -> str:
    """The path of the control socket according to systemd or the configuration; empty if there is none."""
    unit = environment.unit(CONTROL_SOCKET)
    if unit.loaded and unit.listen:
        return unit.listen[0]
    if not environment.daemon_is_here:
        return ""
    config = environment.config
    if config.control_socket_path is not None:
        return config.control_socket_path
    return DEFAULT_CONTROL_SOCKET if config.socket_path == DEFAULT_SOCKET else ""


CHECKS = (Check("socket", kcm_socket), Check("control socket", control_socket))
