"""What the doctor says of systemd's units."""

import json
import subprocess
from collections.abc import Callable

import pytest

from pykcm.cli.doctor import configuration, units
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Level, Result
from pykcm.config import DEFAULT_SOCKET

from .machine import ODD, Machine, words

ALL = [units.kcm_socket_unit, units.control_socket_unit, units.service_unit, units.other_servers]
AUDIT = "pykcm-audit.socket"
SOCKETS = [(units.kcm_socket_unit, "pykcm.socket"), (units.control_socket_unit, "pykcm-control.socket")]


@pytest.mark.parametrize("check", ALL)
def test_without_systemd(machine: Machine, check: Callable[[Environment], Result]) -> None:
    """Where systemd does not run there is nothing to look at."""
    assert check(machine.environment()).level is Level.SKIPPED


@pytest.mark.parametrize("answer", [None, "", "\n"])
@pytest.mark.parametrize("check", ALL)
def test_systemd_is_silent(
    machine: Machine, check: Callable[[Environment], Result], answer: str | None
) -> None:
    """Where systemctl says nothing, as to users on a machine without D-Bus, nothing is made of it."""
    machine.has_systemd()
    result = check(machine.environment(run=lambda _: answer))
    assert result.level is Level.SKIPPED
    assert result.text.startswith("needs root")


@pytest.mark.parametrize("check", ALL)
def test_as_it_should_be(machine: Machine, check: Callable[[Environment], Result]) -> None:
    """With the units as README installs them, all is well."""
    machine.installed()
    result = check(machine.environment())
    assert result.level is Level.OK, result


@pytest.mark.parametrize(("check", "name"), SOCKETS)
@pytest.mark.parametrize(
    ("changes", "level", "command"),
    [
        ({"ActiveState": "inactive"}, Level.FAILED, "systemctl enable --now {}"),
        ({"ActiveState": "failed"}, Level.FAILED, "systemctl reset-failed pykcm.service {}"),
        ({"LoadState": "masked", "UnitFileState": "masked"}, Level.FAILED, "systemctl unmask {}"),
        ({"UnitFileState": "disabled"}, Level.WARNING, "systemctl enable {}"),
        ({"NeedDaemonReload": "yes"}, Level.WARNING, "systemctl daemon-reload"),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, Level.WARNING, "systemctl enable --now {}"),
    ],
)
def test_a_socket_unit(
    machine: Machine,
    check: Callable[[Environment], Result],
    name: str,
    changes: dict[str, str],
    level: Level,
    command: str,
) -> None:
    """A socket unit that does not listen fails; one that will not at the next boot is a warning."""
    machine.installed()
    machine.units[name] |= changes
    result = check(machine.environment())
    assert result.level is level
    assert name in result.text
    assert command.format(name) in result.remedy


def test_the_audit_socket(machine: Machine) -> None:
    """It is missed where there is SELinux, and is never more than a warning: nobody is refused for it."""
    machine.installed()
    assert units.audit_socket_unit(machine.environment()).level is Level.OK
    machine.write("/sys/fs/selinux/enforce", "1")
    assert units.audit_socket_unit(machine.environment(run=lambda _: "")).level is Level.SKIPPED
    missing = units.audit_socket_unit(machine.environment())
    assert missing.level is Level.WARNING
    assert "not in the audit log" in missing.text
    assert "/pykcm-audit.service" in missing.remedy[0]
    assert missing.remedy[-1] == f"systemctl enable --now {AUDIT}"
    machine.units[AUDIT] = dict(machine.units["pykcm.socket"])
    assert units.audit_socket_unit(machine.environment()).level is Level.OK
    for changes in ({"ActiveState": "inactive"}, {"LoadState": "masked"}):
        machine.units[AUDIT] |= changes
        assert units.audit_socket_unit(machine.environment()).level is Level.WARNING


def test_not_installed(machine: Machine) -> None:
    """Without any of pykcm's files its units are not missed."""
    machine.has_systemd()
    machine.config_file.unlink()
    for check in ALL[:3]:
        environment = machine.environment(config_file=None)
        environment.config_files = []
        assert check(environment).level is Level.SKIPPED


def test_a_service_that_has_failed(machine: Machine) -> None:
    """A service that gave up fails: its log is looked at first, and the socket is started again."""
    machine.installed()
    machine.units["pykcm.service"]["ActiveState"] = "failed"
    result = units.service_unit(machine.environment())
    assert result.level is Level.FAILED
    assert result.remedy[0].startswith("journalctl -u pykcm.service")
    assert result.remedy[-1] == "systemctl start pykcm.socket"


def test_a_user_that_is_missing(machine: Machine) -> None:
    """A service whose user is not there fails: systemd-sysusers makes it."""
    machine.installed()
    machine.users.clear()
    result = units.service_unit(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, ("systemd-sysusers",))


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("sssd-kcm.socket", "sssd-kcm"),
        ("sssd-kcm.service", "sssd-kcm"),
        ("heimdal-kcm.service", "Heimdal's kcm"),
    ],
)
def test_another_server(machine: Machine, name: str, server: str) -> None:
    """Another KCM server that runs fails, one that is enabled is a warning, and the remedy masks it."""
    machine.installed()
    machine.units[name] = {"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active"}
    result = units.other_servers(machine.environment())
    assert result.level is Level.FAILED
    assert server in result.text
    assert f"systemctl mask {name}" in result.remedy
    machine.units[name]["ActiveState"] = "inactive"
    assert units.other_servers(machine.environment()).level is Level.WARNING
    machine.units[name]["UnitFileState"] = "disabled"
    assert units.other_servers(machine.environment()).level is Level.OK
    machine.units[name] |= {"LoadState": "masked", "UnitFileState": "masked"}
    assert units.other_servers(machine.environment()).level is Level.OK


def test_configuration(machine: Machine) -> None:
    """The files that are read are named, those of conf.d as well."""
    more = machine.write("/etc/pykcm/conf.d/more.toml", "max_ccaches = 1\n")
    result = configuration.configuration(machine.environment())
    assert result.level is Level.OK
    assert result.text == f"read from {machine.config_file}, {more}"


def test_a_mistake_in_the_configuration(machine: Machine) -> None:
    """An option that the daemon does not take fails with the daemon's own message, and the file to mend."""
    machine.write("/etc/pykcm/pykcm.toml", "max_ccache = 1\n")
    result = configuration.configuration(machine.environment())
    assert result.level is Level.FAILED
    assert "option max_ccache: unknown" in result.text
    assert result.remedy[0] == f"${{EDITOR:-vi}} {machine.config_file}"


def test_a_configuration_that_the_service_cannot_read(machine: Machine) -> None:
    """Files that are root's alone fail, although root can read them."""
    machine.installed()
    machine.write("/etc/pykcm/pykcm.toml", "", 0o600)
    result = configuration.configuration(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chmod o+r {machine.config_file}",))


def test_a_socket_path_that_does_not_count(machine: Machine) -> None:
    """Under systemd the unit says where to listen: a socket_path that says something else is a warning."""
    machine.installed()
    machine.write("/etc/pykcm/pykcm.toml", 'socket_path = "/run/kcm.sock"\n')
    result = configuration.configuration(machine.environment())
    assert result.level is Level.WARNING
    assert f"pykcm.socket listens at {DEFAULT_SOCKET}" in result.text
    machine.write("/etc/pykcm/pykcm.toml", f"socket_path = {json.dumps(f'/run/{ODD}')}\n")
    prints = configuration.configuration(machine.environment()).remedy[1].partition(">")[0]
    printed = subprocess.run(["sh", "-c", prints], capture_output=True, text=True, check=True).stdout
    assert printed == f"[Socket]\nListenStream=\nListenStream=/run/{ODD}\n"


def test_odd_files_of_the_configuration(machine: Machine) -> None:
    """Each is one word of the command, whatever is in its name."""
    machine.installed()
    odd = machine.write(f"/etc/pykcm/conf.d/{ODD}.toml", "", 0o600)
    assert words(configuration.configuration(machine.environment())) == [["chmod", "o+r", str(odd)]]
    odd.write_text("nonsense")
    assert words(configuration.configuration(machine.environment()))[0][1:] == [str(odd)]
