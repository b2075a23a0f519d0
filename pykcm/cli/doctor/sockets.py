"""The sockets themselves: there, of the right one, and open to the right ones."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from pykcm.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import CONTROL_SOCKET, KCM_SOCKET
from pykcm.cli.doctor.where import Where
from pykcm.cli.output import quoted
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_SOCKET
from pykcm.control.socket_folders import folder_of_others
from pykcm.peer.identity import listener_of
from pykcm.processes import shown_process

_SYSTEMD = 1

# Other KCM servers, as /proc/PID/comm has them.
_RIVALS = {"sssd_kcm": "sssd-kcm", "kcm": "Heimdal's kcm"}

# In seconds.
_PATIENCE = 5.0


class Holder(NamedTuple):
    """Who began to listen; `pid` is 0 for a process that cannot be seen from here."""

    pid: int
    uid: int

    def __str__(self) -> str:
        if not self.pid:
            return f"a process of UID {self.uid} outside of this container"
        return f"{shown_process(self.pid)} of UID {self.uid}"


def holder_of(path: Path) -> Holder:
    """Who listens at `path`, asked of the kernel; raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE)
        probe.connect(os.fspath(path))
        return Holder(*listener_of(probe))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _start(where: Where, unit: str) -> str:
    return f"systemctl restart {unit}" if where.unit(unit).loaded else "pykcmd"


def kcm_socket(where: Where) -> Outcome:
    """Where clients connect to, a KCM server of pykcm's listens, and everyone may connect."""
    name = where.client_socket
    path = where.path(name)
    try:
        status = path.stat()
    except FileNotFoundError:
        return failed(f"{name}: is not there: no KCM server runs", _start(where, KCM_SOCKET))
    if not stat.S_ISSOCK(status.st_mode):
        # An engine's mount point is an empty folder: what has anything in it is not to go.
        remove = "rmdir" if stat.S_ISDIR(status.st_mode) else "rm"
        return failed(
            f"{name}: is no socket",
            f"ls -l {quoted(name)}",
            f"{remove} {quoted(name)}",
            _start(where, KCM_SOCKET),
        )
    if status.st_mode & 0o222 != 0o222:
        mode = stat.S_IMODE(status.st_mode)
        return failed(f"{name}: not everyone may connect (mode {mode:04o})", f"chmod 0666 {quoted(name)}")
    closed = _closed_folder(where, path)
    if closed is not None:
        return failed(f"{name}: not everyone may enter {closed}", f"chmod o+x {quoted(str(closed))}")
    try:
        holder = holder_of(path)
    except OSError as error:
        return _refused(name, error, _start(where, KCM_SOCKET))
    return _judged(where, name, holder)


def _closed_folder(where: Where, path: Path) -> Path | None:
    for folder in path.parents:
        if folder == where.root:
            break
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _refused(name: str, error: OSError, start: str) -> Outcome:
    if error.errno == errno.ECONNREFUSED:
        return failed(f"{name}: a dead server's socket: nobody listens", f"rm {quoted(name)}", start)
    if isinstance(error, TimeoutError | BlockingIOError):
        return failed(f"{name}: whoever listens there does not take connections", start)
    return failed(
        f"{name}: cannot be connected to: {error.strerror}",
        f"ls -lZd {quoted(name)} {quoted(str(Path(name).parent))}",
    )


def _judged(where: Where, name: str, holder: Holder) -> Outcome:
    rival = _RIVALS.get(command_of(holder.pid)) if holder.pid else None
    if rival is not None:
        return failed(
            f"{name}: {rival} listens ({holder}), not pykcm", "pykcmctl doctor  # see other KCM servers"
        )
    # When the daemon has been started it is the daemon that listens, at the same socket.
    if holder.pid == _SYSTEMD and where.units:
        unit = where.unit(KCM_SOCKET)
        if not unit.runs or name not in unit.listen:
            return failed(
                f"{name}: systemd listens, but not for {KCM_SOCKET}", "systemctl list-sockets --show-types"
            )
        return ok(f"{name}: systemd listens for {KCM_SOCKET}, everyone may connect")
    return ok(f"{name}: {holder} listens, everyone may connect")


def control_socket(where: Where) -> Outcome:
    """It is root's alone, and a daemon listens."""
    name = where.control_path
    try:
        status = where.path(name).stat()
    except FileNotFoundError:
        served = _control_path(where)
        if not served:
            return skipped("the daemon is to have none, or is not of this machine")
        if served != name:
            return warning(
                f"{name}: is not there: the daemon's control socket is {served}",
                f"export PYKCM_CONTROL_SOCKET={quoted(served)}",
            )
        return warning(f"{name}: is not there: pykcmctl finds no daemon", _start(where, CONTROL_SOCKET))
    if not stat.S_ISSOCK(status.st_mode):
        return failed(f"{name}: is no socket", f"ls -l {quoted(name)}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return failed(
            f"{name}: others than its owner may connect (mode {mode:04o})", f"chmod 0600 {quoted(name)}"
        )
    if status.st_uid not in {0, where.service_uid}:
        return warning(f"{name}: belongs to UID {status.st_uid}, not to root", f"chown root: {quoted(name)}")
    folder = folder_of_others(os.fspath(where.path(name)), {0, status.st_uid}, top=where.root)
    if folder is not None:
        return failed(
            f"{name}: others than root can put another socket in its place, in {folder}",
            f"ls -ld {quoted(str(folder))}",
            f"chown root: {quoted(str(folder))}",
            f"chmod go-w {quoted(str(folder))}",
        )
    if where.uid != 0:
        return skipped(f"needs root: {name} is for root alone, as it should be")
    try:
        holder = holder_of(where.path(name))
    except OSError as error:
        return _refused(name, error, _start(where, CONTROL_SOCKET))
    return ok(f"{name}: {holder} listens, only root may connect")


def _control_path(where: Where) -> str:
    """Where the daemon is to listen for pykcmctl; empty for nowhere."""
    unit = where.unit(CONTROL_SOCKET)
    if unit.loaded and unit.listen:
        return unit.listen[0]
    if not where.daemon_is_here:
        return ""
    config = where.config
    if config.control_socket_path is not None:
        return config.control_socket_path
    return DEFAULT_CONTROL_SOCKET if config.socket_path == DEFAULT_SOCKET else ""


CHECKS = (Check("socket", kcm_socket), Check("control socket", control_socket))
