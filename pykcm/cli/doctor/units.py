"""Checks of systemd's units: those of pykcm and of other KCM servers."""

from collections.abc import Callable

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
        return warning(f"{name} is not installed ({unit.load}): {consequence}", *_install(name, *related))
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


def _install(name: str, *related: str) -> tuple[str, ...]:
    folder = "$(dirname $(dirname $(readlink -f $(command -v pykcmctl))))/share/pykcm/systemd"
    files = " ".join(f"{folder}/{each}" for each in (name, *related))
    return (
        f"install -Dm644 -t /etc/systemd/system {files}",
        "systemctl daemon-reload",
        f"systemctl enable --now {name}",
    )


def service_unit(environment: Environment) -> Result:
    """Check that systemd can start the service, and that it has not failed."""
    if environment.why_no_units:
        return skipped(environment.why_no_units)
    unit = environment.unit(SERVICE)
    if not unit.loaded:
        if not environment.daemon_is_here:
            return skipped("pykcm is not installed here")
        return warning(f"{SERVICE} is not installed ({unit.load})", *_install(SERVICE)[:2])
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
