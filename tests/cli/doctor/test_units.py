"""The doctor's checks of systemd's units, of the daemon's configuration and of SELinux."""

import json
import os
import subprocess
from collections.abc import Callable

import pytest

from pykcm.cli.doctor import configuration, units
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Level, Result
from pykcm.config import DEFAULT_SOCKET
from pykcm.peer.selinux import Policy, PolicyUnusableError
from tests.peer.mcs import Mcs

from .machine import ODD, Machine, words

ALL = [units.kcm_socket_unit, units.control_socket_unit, units.service_unit, units.other_servers]
AUDIT = "pykcm-audit.socket"
SOCKETS = [(units.kcm_socket_unit, "pykcm.socket"), (units.control_socket_unit, "pykcm-control.socket")]


@pytest.mark.parametrize("check", ALL)
def test_units_are_skipped_without_systemd(machine: Machine, check: Callable[[Environment], Result]) -> None:
    assert check(machine.environment()).level is Level.SKIPPED


@pytest.mark.parametrize("answer", [None, "", "\n"])
@pytest.mark.parametrize("check", ALL)
def test_units_are_skipped_if_systemctl_is_silent(
    machine: Machine, check: Callable[[Environment], Result], answer: str | None
) -> None:
    """Without D-Bus, systemctl answers only to root."""
    machine.has_systemd()
    result = check(machine.environment(run=lambda _: answer))
    assert result.level is Level.SKIPPED
    assert result.text.startswith("needs root")


@pytest.mark.parametrize("check", ALL)
def test_installed_units_are_ok(machine: Machine, check: Callable[[Environment], Result]) -> None:
    """The units are installed as docs/install.md says."""
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
def test_inactive_socket_unit_fails(
    machine: Machine,
    check: Callable[[Environment], Result],
    name: str,
    changes: dict[str, str],
    level: Level,
    command: str,
) -> None:
    """A unit that does not listen fails; one that will not listen after the next boot is a warning."""
    machine.installed()
    machine.units[name] |= changes
    result = check(machine.environment())
    assert result.level is level
    assert name in result.text
    assert command.format(name) in result.remedy


def test_missing_audit_socket_is_a_warning(machine: Machine) -> None:
    """It is needed only with SELinux, and nothing else depends on it."""
    machine.installed()
    assert units.audit_socket_unit(machine.environment()).level is Level.OK
    machine.write("/sys/fs/selinux/enforce", "1")
    assert units.audit_socket_unit(machine.environment(run=lambda _: "")).level is Level.SKIPPED
    missing = units.audit_socket_unit(machine.environment())
    assert missing.level is Level.WARNING
    assert "not in the audit log" in missing.text
    assert "/pykcm-audit.service" in missing.remedy[2]
    assert missing.remedy[-1] == f"systemctl enable --now {AUDIT}"
    machine.units[AUDIT] = dict(machine.units["pykcm.socket"])
    assert units.audit_socket_unit(machine.environment()).level is Level.OK
    for changes in ({"ActiveState": "inactive"}, {"LoadState": "masked"}):
        machine.units[AUDIT] |= changes
        assert units.audit_socket_unit(machine.environment()).level is Level.WARNING


def test_units_are_skipped_without_pykcm(machine: Machine) -> None:
    machine.has_systemd()
    machine.config_file.unlink()
    for check in ALL[:3]:
        environment = machine.environment(config_file=None)
        environment.config_files = []
        assert check(environment).level is Level.SKIPPED


def test_failed_service_fails(machine: Machine) -> None:
    """The remedy shows the log first, and then starts the socket again."""
    machine.installed()
    machine.units["pykcm.service"]["ActiveState"] = "failed"
    result = units.service_unit(machine.environment())
    assert result.level is Level.FAILED
    assert result.remedy[0].startswith("journalctl -u pykcm.service")
    assert result.remedy[-1] == "systemctl start pykcm.socket"


def test_missing_user_of_service_fails(machine: Machine) -> None:
    """systemd-sysusers makes the user."""
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
def test_other_kcm_server_is_reported(machine: Machine, name: str, server: str) -> None:
    """A running server fails, an enabled one is a warning, and the remedy masks its units."""
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


def test_configuration_files_are_named(machine: Machine) -> None:
    """The files in conf.d are named as well."""
    more = machine.write("/etc/pykcm/conf.d/more.toml", "max_ccaches = 1\n")
    result = configuration.configuration(machine.environment())
    assert result.level is Level.OK
    assert result.text == f"read from {machine.config_file}, {more}"


def test_invalid_configuration_fails(machine: Machine) -> None:
    """The result has the daemon's own message; the remedy names the file."""
    machine.write("/etc/pykcm/pykcm.toml", "max_ccache = 1\n")
    result = configuration.configuration(machine.environment())
    assert result.level is Level.FAILED
    assert "option max_ccache: unknown" in result.text
    assert result.remedy[0] == f"${{EDITOR:-vi}} {machine.config_file}"


def test_configuration_unreadable_for_service_fails(machine: Machine) -> None:
    """Files that only root may read fail, although root can read them."""
    machine.installed()
    machine.write("/etc/pykcm/pykcm.toml", "", 0o600)
    result = configuration.configuration(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chmod o+r {machine.config_file}",))


def test_ignored_socket_path_is_a_warning(machine: Machine) -> None:
    """With systemd, the unit decides where to listen, whatever socket_path says."""
    machine.installed()
    machine.write("/etc/pykcm/pykcm.toml", 'socket_path = "/run/kcm.sock"\n')
    result = configuration.configuration(machine.environment())
    assert result.level is Level.WARNING
    assert f"pykcm.socket listens at {DEFAULT_SOCKET}" in result.text
    machine.write("/etc/pykcm/pykcm.toml", f"socket_path = {json.dumps(f'/run/{ODD}')}\n")
    prints = configuration.configuration(machine.environment()).remedy[1].partition(">")[0]
    printed = subprocess.run(["sh", "-c", prints], capture_output=True, text=True, check=True).stdout
    assert printed == f"[Socket]\nListenStream=\nListenStream=/run/{ODD}\n"


def test_remedies_quote_configuration_files(machine: Machine) -> None:
    """Each file is one word of the command, whatever characters are in its name."""
    machine.installed()
    odd = machine.write(f"/etc/pykcm/conf.d/{ODD}.toml", "", 0o600)
    assert words(configuration.configuration(machine.environment())) == [["chmod", "o+r", str(odd)]]
    odd.write_text("nonsense")
    assert words(configuration.configuration(machine.environment()))[0][1:] == [str(odd)]


# SELinux


class WithoutModule(Mcs):
    """A policy without pykcm's policy module."""

    def has_context(self, context: str) -> bool:
        return ":pykcm_t:" not in context


def test_kernel_without_selinux_is_ok(machine: Machine) -> None:
    """The policy is not queried."""

    def never() -> Policy:
        raise AssertionError

    assert configuration.selinux(machine.environment(load_policy=never)).level is Level.OK


def test_selinux_mode_and_module_are_reported(machine: Machine) -> None:
    """The binding of libselinux must be able to query the policy."""
    machine.write("/sys/fs/selinux/enforce", "1")
    result = configuration.selinux(machine.environment(load_policy=Mcs))
    assert result.level is Level.OK
    assert result.text.startswith("enforcing")
    machine.write("/sys/fs/selinux/enforce", "0")
    result = configuration.selinux(machine.environment(load_policy=WithoutModule))
    assert result.level is Level.WARNING
    assert result.text.startswith("permissive, and pykcm's policy module is not installed")

    def refuse() -> Policy:
        raise PolicyUnusableError("SELinux is enabled, but Python's module selinux cannot be loaded")

    result = configuration.selinux(machine.environment(load_policy=refuse))
    assert result.level is Level.FAILED
    assert "cannot be loaded" in result.text


def test_missing_units_are_installed_with_their_user_and_program(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket cannot start without the service, which needs its user and the program's real path."""
    monkeypatch.setattr("sys.prefix", "/opt/pykcm")
    monkeypatch.setattr("sys.executable", "/opt/pykcm/bin/python")
    machine.has_systemd()
    share = "/opt/pykcm/share/pykcm/systemd"
    program = "/etc/systemd/system/pykcm.service.d/program.conf"
    expected = (
        f"install -Dm644 {share}/pykcm.sysusers /etc/sysusers.d/pykcm.conf",
        "systemd-sysusers",
        f"install -Dm644 -t /etc/systemd/system {share}/pykcm.socket {share}/pykcm.service",
        "mkdir -p /etc/systemd/system/pykcm.service.d",
        rf"printf '[Service]\nExecStart=\nExecStart=%s\n' /opt/pykcm/bin/pykcmd >{program}",
        "systemctl daemon-reload",
        "systemctl enable --now pykcm.socket",
    )
    assert units.kcm_socket_unit(machine.environment()).remedy == expected
    assert units.start_commands(machine.environment(), "pykcm.socket") == expected
    machine.write("/usr/bin/pykcmd", "", 0o755)
    assert not [each for each in units.kcm_socket_unit(machine.environment()).remedy if "printf" in each]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_daemon_started_by_hand_gets_the_folder_of_the_service(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without systemd root starts pykcmd, which refuses a folder that `setup` made for the user pykcm."""
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")

    def commands(uid: int = 0) -> tuple[str, ...]:
        return units.start_commands(machine.environment(uid=uid), "pykcm.socket")

    assert commands() == ("pykcmd",)
    folder = machine.folder("/var/lib/pykcm", 0o700)
    assert commands() == ("pykcmd",)
    os.chown(folder, 996, 996)
    assert commands() == ("chown -R root: /var/lib/pykcm", "pykcmd")
    assert commands(uid=1000) == ("pykcmd",)
    machine.write("/etc/pykcm/pykcm.toml", 'store = "memory"')
    assert commands() == ("pykcmd",)
