"""systemd's units of pykcm, and those of other KCM servers."""

from collections.abc import Callable

from pykcm.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import (
    AUDIT_SERVICE,
    AUDIT_SOCKET,
    CONTROL_SOCKET,
    KCM_SOCKET,
    RIVALS,
    SERVICE,
    Unit,
)
from pykcm.cli.doctor.where import Where

# What follows where a socket is not there.
_NO_SERVER = "clients find no KCM server but one that is started by hand"
_NO_CONTROL = "pykcmctl finds no daemon but one that is started by hand"

_ENABLED = {"enabled", "enabled-runtime", "static", "generated"}


def kcm_socket_unit(where: Where) -> Outcome:
    """There is a socket for KCM's clients, now and after the next boot."""
    return _socket_unit(where, KCM_SOCKET, _NO_SERVER)


def control_socket_unit(where: Where) -> Outcome:
    """The same for pykcmctl."""
    return _socket_unit(where, CONTROL_SOCKET, _NO_CONTROL)


def audit_socket_unit(where: Where) -> Outcome:
    """Where there is SELinux, what it denies reaches the audit log; nothing else depends on it."""
    if not where.has_selinux:
        return ok("not needed: the kernel has no SELinux")
    return _socket_unit(where, AUDIT_SOCKET, "denials are not in the audit log", AUDIT_SERVICE, wrong=warning)


def _socket_unit(
    where: Where, name: str, otherwise: str, *beside: str, wrong: Callable[..., Outcome] = failed
) -> Outcome:
    """`beside`: units that are installed with it."""
    if where.why_no_units:
        return skipped(where.why_no_units)
    unit = where.unit(name)
    if unit.load == "masked":
        return wrong(
            f"{name} is masked: {otherwise}", f"systemctl unmask {name}", f"systemctl enable --now {name}"
        )
    if not unit.loaded:
        if not where.daemon_is_here:
            return skipped("pykcm is not installed here")
        return warning(f"{name} is not installed ({unit.load}): {otherwise}", *_install(name, *beside))
    if not unit.runs:
        again = [f"systemctl reset-failed {SERVICE} {name}"] if unit.active == "failed" else []
        return wrong(
            f"{name} is {unit.active}: {otherwise}",
            f"journalctl -u {SERVICE} -u {name} -n 20",
            *again,
            f"systemctl enable --now {name}",
        )
    if unit.enabled not in _ENABLED:
        return warning(f"{name} is {unit.enabled}: not there after the next boot", f"systemctl enable {name}")
    if unit.needs_reload:
        return warning(f"{name} has changed on disk", "systemctl daemon-reload", f"systemctl restart {name}")
    return ok(f"{name} is {unit.enabled} and {unit.active}, at {', '.join(unit.listen)}")


def _install(name: str, *beside: str) -> tuple[str, ...]:
    folder = "$(dirname $(dirname $(readlink -f $(command -v pykcmctl))))/share/pykcm/systemd"
    files = " ".join(f"{folder}/{each}" for each in (name, *beside))
    return (
        f"install -Dm644 -t /etc/systemd/system {files}",
        "systemctl daemon-reload",
        f"systemctl enable --now {name}",
    )


def service_unit(where: Where) -> Outcome:
    """The service can be started, and has not given up."""
    if where.why_no_units:
        return skipped(where.why_no_units)
    unit = where.unit(SERVICE)
    if not unit.loaded:
        if not where.daemon_is_here:
            return skipped("pykcm is not installed here")
        return warning(f"{SERVICE} is not installed ({unit.load})", *_install(SERVICE)[:2])
    if unit.active == "failed":
        return failed(
            f"{SERVICE} has failed: its log says why",
            f"journalctl -u {SERVICE} -n 20",
            f"systemctl reset-failed {SERVICE} {KCM_SOCKET}",
            f"systemctl start {KCM_SOCKET}",
        )
    if unit.user and where.service_uid is None:
        return failed(f"{SERVICE} runs as {unit.user}, a user that is not there", "systemd-sysusers")
    if unit.needs_reload:
        return warning(
            f"{SERVICE} has changed on disk", "systemctl daemon-reload", f"systemctl restart {SERVICE}"
        )
    return ok(f"{SERVICE} is {unit.active}" + (": a client starts it" if unit.active == "inactive" else ""))


def rivals(where: Where) -> Outcome:
    """No other KCM server has the same socket, or takes it at the next boot."""
    if where.why_no_units:
        return skipped(where.why_no_units)
    found = [unit for unit in map(where.unit, RIVALS) if unit.loaded]
    for unit in found:
        if unit.runs:
            return failed(
                f"{RIVALS[unit.name]} runs ({unit.name}): only one can have the socket", *_away(found)
            )
    for unit in found:
        # As a static or indirect one it is started by something else.
        if unit.enabled in {"enabled", "enabled-runtime"}:
            return warning(f"{unit.name} is enabled: at the next boot it takes the socket", *_away(found))
    return ok("no other KCM server is enabled")


def _away(units: list[Unit]) -> tuple[str, ...]:
    names = " ".join(unit.name for unit in units)
    # Units of System V, as that of Heimdal's is on Debian, are not stopped by `disable --now`.
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
    Check("other KCM servers", rivals),
)
