"""The state of systemd's units, from `systemctl show`."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

KCM_SOCKET = "pykcm.socket"
CONTROL_SOCKET = "pykcm-control.socket"
AUDIT_SOCKET = "pykcm-audit.socket"
AUDIT_SERVICE = "pykcm-audit.service"
SERVICE = "pykcm.service"
RENEW_SERVICE = "pykcm-renew.service"

# Units of other KCM servers, with the server's name.
OTHER_SERVERS = {
    "sssd-kcm.socket": "sssd-kcm",
    "sssd-kcm.service": "sssd-kcm",
    "heimdal-kcm.service": "Heimdal's kcm",
}

_PROPERTIES = ("Id", "LoadState", "UnitFileState", "ActiveState", "NeedDaemonReload", "User", "Listen")
_STREAM = " (Stream)"


class Unit(NamedTuple):
    """A unit's state in systemd's terms; `listen` are the paths of its Unix stream sockets."""

    name: str
    load: str = "not-found"
    enabled: str = ""
    active: str = "inactive"
    needs_reload: bool = False
    user: str = ""
    listen: tuple[str, ...] = ()

    @property
    def loaded(self) -> bool:
        return self.load == "loaded"

    @property
    def runs(self) -> bool:
        return self.active in {"active", "activating", "reloading"}


def read_units(run: Callable[[Sequence[str]], str | None]) -> Mapping[str, Unit]:
    """The units of pykcm and of other KCM servers by name; empty if systemd does not answer."""
    names = [KCM_SOCKET, CONTROL_SOCKET, AUDIT_SOCKET, SERVICE, RENEW_SERVICE, *OTHER_SERVERS]
    output = run(["systemctl", "show", "--no-pager", f"--property={','.join(_PROPERTIES)}", *names]) or ""
    units = [_parse_unit(block) for block in output.split("\n\n")]
    return {unit.name: unit for unit in units if unit.name}


def _parse_unit(block: str) -> Unit:
    values: dict[str, list[str]] = {}
    for line in block.splitlines():
        name, _, value = line.partition("=")
        values.setdefault(name, []).append(value)
    first = {name: each[0] for name, each in values.items()}
    return Unit(
        name=first.get("Id", ""),
        load=first.get("LoadState", ""),
        enabled=first.get("UnitFileState", ""),
        active=first.get("ActiveState", ""),
        needs_reload=first.get("NeedDaemonReload") == "yes",
        user=first.get("User", ""),
        listen=tuple(
            value.removesuffix(_STREAM)
            for value in values.get("Listen", [])
            if value.startswith("/") and value.endswith(_STREAM)
        ),
    )
