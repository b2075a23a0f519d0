"""Checks of systemd's units: those of pykcm and of other KCM servers."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import (
    AUDIT_SERVICE,
    AUDIT_SOCKET,
    CONTROL_SOCKET,
    KCM_SOCKET,
    OTHER_SERVERS,
    SERVICE,
    Unit,
)
from pykcm.cli.output import shell_quote

# The consequences of a missing socket.
_NO_SERVER = "clients find no KCM server, unless one is started by hand"
_NO_CONTROL = "pykcmctl finds no daemon, unless one is started by hand"

_ENABLED = {"enabled", "enabled-runtime", "static", "generated"}


def kcm_socket_unit(environment: Environment) -> Result:
    """Check that systemd has the socket for KCM clients, now and after the next boot."""
    return _socket_unit(environment, KCM_SOCKET, _NO_SERVER)


def control_socket_unit(environment: Environment) -> Result:
    """Check that systemd has the socket for pykcmctl, now and after the next boot."""
    return _socket_unit(environment, CONTROL_SOCKET, _NO_CONTROL)


def audit_socket_unit(environment: Environment) -> Result:
    """Check that SELinux denials reach the audit log; nothing else depends on this socket."""
    if not environment.has_selinux:
        return ok("not needed: the kernel has no SELinux")
    return _socket_unit(
        environment, AUDIT_SOCKET, "denials are not in the audit log", AUDIT_SERVICE, problem=warning
    )


def _socket_unit(
    environment: Environment,
    name: str,
    consequence: str,
    *related: str,
    problem: Callable[..., Result] = failed,
) -> Result:
    """The state of a socket unit; `related` units are installed together with it."""
    if environment.why_no_units:
        return skipped(environment.why_no_units)
    unit = environment.unit(name)
    if unit.load == "masked":
        return problem(
            f"{name} is masked: {consequence}", f"systemctl unmask {name}", f"systemctl enable --now {name}"
        )
    if not unit.loaded:
        if not environment.daemon_is_here:
            return skipped("pykcm is not installed here")
        return warning(
            f"{name} is not installed ({unit.load}): {consequence}", *_install(environment, name, *related)
        )
    if not unit.runs:
        reset = [f"systemctl reset-failed {SERVICE} {name}"] if unit.active == "failed" else []
        return problem(
            f"{name} is {unit.active}: {consequence}",
            f"journalctl -u {SERVICE} -u {name} -n 20",
            *reset,
            f"systemctl enable --now {name}",
        )
    if unit.enabled not in _ENABLED:
        return warning(
            f"{name} is {unit.enabled}: the socket is missing after the next boot", f"systemctl enable {name}"
        )
    if unit.needs_reload:
        return warning(
            f"{name} has changed on disk, and systemd has not read it again",
            "systemctl daemon-reload",
            f"systemctl restart {name}",
        )
    return ok(f"{name} is {unit.enabled} and {unit.active}, at {', '.join(unit.listen)}")


def _install(environment: Environment, name: str, *related: str) -> tuple[str, ...]:
    """The commands that install and start a unit; they are right again if an earlier remedy has them."""
    folder = f"{sys.prefix}/share/pykcm/systemd"
    services = dict.fromkeys([*related, SERVICE] if name != AUDIT_SOCKET else related)
    missing = [name, *[each for each in services if each != name and not environment.unit(each).loaded]]
    files = " ".join(shell_quote(f"{folder}/{each}") for each in missing)
    users = f"install -Dm644 {shell_quote(f'{folder}/pykcm.sysusers')} /etc/sysusers.d/pykcm.conf"
    return (
        *((users, "systemd-sysusers") if any(each.endswith(".service") for each in missing) else ()),
        f"install -Dm644 -t /etc/systemd/system {files}",
        *[command for each in missing for command in _program_of(environment, each)],
        "systemctl daemon-reload",
        *([f"systemctl enable --now {name}"] if name.endswith(".socket") else []),
    )


# The programs that the units start.
_PROGRAMS = {SERVICE: "pykcmd", AUDIT_SERVICE: "pykcm-audit"}


def _program_of(environment: Environment, unit: str) -> tuple[str, ...]:
    """The commands that name the unit's program if it is not in /usr/bin."""
    program = _PROGRAMS.get(unit)
    if program is None or environment.path(f"/usr/bin/{program}").exists():
        return ()
    folder = f"/etc/systemd/system/{unit}.d"
    lines = f"'[Service]\\nExecStart=\\nExecStart=%s\\n' {shell_quote(_installed(program))}"
    return (f"mkdir -p {folder}", f"printf {lines} >{folder}/program.conf")


def _installed(program: str) -> str:
    """The path of one of pykcm's programs, which is often in a virtual environment outside of PATH."""
    return str(Path(sys.executable).with_name(program))


def start_commands(environment: Environment, name: str) -> tuple[str, ...]:
    """The commands that start a socket unit, or the daemon itself where systemd has no such unit."""
    unit = environment.unit(name)
    if unit.loaded or unit.load == "masked":
        return (f"systemctl restart {name}",)
    if environment.units and environment.daemon_is_here:
        return _install(environment, name)
    program = shell_quote("pykcmd" if shutil.which("pykcmd") else _installed("pykcmd"))
    return (*_own_state_folder(environment), program)


def _own_state_folder(environment: Environment) -> tuple[str, ...]:
    """Root's daemon refuses a state folder of the user pykcm: the command that gives it to root."""
    config = environment.config
    folder = environment.path(config.state_dir)
    if environment.uid != 0 or config.store != "sqlcipher" or not folder.exists() or not folder.stat().st_uid:
        return ()
    return (f"chown -R root: {shell_quote(config.state_dir)}",)


def service_unit(environment: Environment) -> Result:
    """Check that systemd can start the service, and that it has not failed."""
    if environment.why_no_units:
        return skipped(environment.why_no_units)
    unit = environment.unit(SERVICE)
    if not unit.loaded:
        if not environment.daemon_is_here:
            return skipped("pykcm is not installed here")
        return warning(f"{SERVICE} is not installed ({unit.load})", *_install(environment, SERVICE))
    if unit.active == "failed":
        return failed(
            f"{SERVICE} has failed: see its log for the reason",
            f"journalctl -u {SERVICE} -n 20",
            f"systemctl reset-failed {SERVICE} {KCM_SOCKET}",
            f"systemctl start {KCM_SOCKET}",
        )
    if unit.user and environment.service_uid is None:
        return failed(f"{SERVICE} runs as the user {unit.user}, who does not exist", "systemd-sysusers")
    if unit.needs_reload:
        return warning(
            f"{SERVICE} has changed on disk, and systemd has not read it again",
            "systemctl daemon-reload",
            f"systemctl restart {SERVICE}",
        )
    return ok(f"{SERVICE} is {unit.active}" + (": a client starts it" if unit.active == "inactive" else ""))


def other_servers(environment: Environment) -> Result:
    """Check that no other KCM server has the socket, or takes it at the next boot."""
    if environment.why_no_units:
        return skipped(environment.why_no_units)
    found = [unit for unit in map(environment.unit, OTHER_SERVERS) if unit.loaded]
    for unit in found:
        if unit.runs:
            return failed(
                f"{OTHER_SERVERS[unit.name]} runs ({unit.name}): only one server can have the socket",
                *_disable(found),
            )
    for unit in found:
        # A static or indirect unit is started by another unit.
        if unit.enabled in {"enabled", "enabled-runtime"}:
            return warning(f"{unit.name} is enabled: it takes the socket at the next boot", *_disable(found))
    return ok("no other KCM server is enabled")


def _disable(units: list[Unit]) -> tuple[str, ...]:
    names = " ".join(unit.name for unit in units)
    # `disable --now` does not stop System V services, such as Heimdal's on Debian.
    return (
        f"systemctl stop {names}",
        f"systemctl disable {names}",
        f"systemctl mask {names}",
        f"systemctl restart {KCM_SOCKET}",
    )


CHECKS = (
    Check("socket unit", kcm_socket_unit),
    Check("control socket unit", control_socket_unit),
    Check("audit socket unit", audit_socket_unit),
    Check("service unit", service_unit),
    Check("other KCM servers", other_servers),
)
