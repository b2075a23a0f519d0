"""The doctor's checks of krb5.conf and the environment, and that their remedies work."""

import json
import os
from collections.abc import Callable

import pytest

from pykcm.cli.doctor import clients
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Level, Result
from pykcm.config import DEFAULT_SOCKET
from tests.e2e.clients import why_no_mount_namespace

from .machine import ODD, Machine, words

SNIPPET = "/etc/krb5.conf.d/kcm_default_ccache"
INCLUDES = "includedir /etc/krb5.conf.d/\n"
PLAIN = "[libdefaults]\n    default_ccache_name = KCM:\n"


@pytest.fixture(scope="module")
def mount_namespaces() -> None:
    reason = why_no_mount_namespace()
    if reason:
        pytest.skip(reason)


def check_after_remedy(machine: Machine, check: Callable[[Environment], Result]) -> Result:
    """The check's result; its remedy is run, after which the check must succeed."""
    before = check(machine.environment())
    assert before.level is Level.FAILED
    machine.do(before.remedy)
    after = check(machine.environment())
    assert after.level is Level.OK, after
    return before


def test_krb5_conf_and_includes_are_named(machine: Machine) -> None:
    machine.write("/etc/krb5.conf", INCLUDES)
    machine.write(SNIPPET, PLAIN)
    result = clients.profile(machine.environment())
    assert result.level is Level.OK
    assert result.text == f"read from /etc/krb5.conf, {SNIPPET}"


def test_missing_krb5_conf_is_ok(machine: Machine) -> None:
    assert clients.profile(machine.environment()).level is Level.OK


def test_invalid_line_is_named(machine: Machine) -> None:
    """A line that libkrb5 refuses is named by file and number."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n\nKCM:\n")
    result = clients.profile(machine.environment())
    assert result.level is Level.FAILED
    assert "/etc/krb5.conf:3:" in result.text
    assert result.remedy == ("${EDITOR:-vi} +3 /etc/krb5.conf",)


def test_missing_includedir_fails(machine: Machine) -> None:
    """Without an included folder, no Kerberos program works."""
    machine.write("/etc/krb5.conf", INCLUDES)
    assert "/etc/krb5.conf.d/ cannot be included" in clients.profile(machine.environment()).text


def test_krb5_config_variable_is_used(machine: Machine) -> None:
    """KRB5_CONFIG may name several files, some of which are missing."""
    machine.write("/etc/krb5.conf", "[libdefaults]\ndefault_ccache_name = FILE:/tmp/x\n")
    machine.write("/srv/mine.conf", PLAIN)
    machine.variables["KRB5_CONFIG"] = "/srv/missing.conf:/srv/mine.conf:/etc/krb5.conf"
    result = clients.default_ccache(machine.environment())
    assert (result.level, result.text) == (Level.OK, "KCM: (/srv/mine.conf:2)")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("KCM:%{uid}", "a single ccache"),
        ("KCM:1000", "a single ccache"),
        ("KCM", "do not keep their tickets in KCM"),
        ("kcm:", "do not keep their tickets in KCM"),
        ("FILE:/tmp/krb5cc_%{uid}", "do not keep their tickets in KCM"),
        ("KEYRING:persistent:%{uid}", "do not keep their tickets in KCM"),
        ("DIR:/run/user/%{uid}/krb5cc", "do not keep their tickets in KCM"),
        ('"FILE:/tmp/a = b"', "do not keep their tickets in KCM"),
    ],
)
@pytest.mark.usefixtures("mount_namespaces")
def test_other_default_fails_with_place(machine: Machine, name: str, says: str) -> None:
    """Any default_ccache_name except KCM: fails, and the remedy changes that line."""
    machine.write("/etc/krb5.conf", f"{INCLUDES}[libdefaults]\n    default_ccache_name = {name}\n[realms]\n")
    machine.folder("/etc/krb5.conf.d")
    result = check_after_remedy(machine, clients.default_ccache)
    assert says in result.text
    assert "/etc/krb5.conf:3" in result.text
    assert machine.path("/etc/krb5.conf").read_text().endswith("= KCM:\n[realms]\n")


@pytest.mark.parametrize("main", [None, "", "[libdefaults]\n    default_realm = A\n", INCLUDES])
@pytest.mark.usefixtures("mount_namespaces")
def test_missing_default_fails(machine: Machine, main: str | None) -> None:
    """The remedy sets default_ccache_name, and includes its file if necessary."""
    machine.folder("/etc/krb5.conf.d")
    if main is not None:
        machine.write("/etc/krb5.conf", main or "\n")
    assert "is not set" in check_after_remedy(machine, clients.default_ccache).text
    assert clients.snippet(machine.environment()).level is Level.OK


def test_first_value_wins(machine: Machine) -> None:
    """If the file of pykcm is included after another value, the check names the other value."""
    machine.write("/etc/krb5.conf", f"[libdefaults]\n  default_ccache_name = FILE:/x\n{INCLUDES}")
    machine.write(SNIPPET, PLAIN)
    result = clients.default_ccache(machine.environment())
    assert result.level is Level.FAILED
    assert "/etc/krb5.conf:2" in result.text


# As packages and `pykcmctl setup` install the file.
INSTALLED = "/etc/krb5.conf.d/pykcm_default_ccache"


@pytest.mark.parametrize("file", [SNIPPET, INSTALLED])
@pytest.mark.usefixtures("mount_namespaces")
def test_file_that_is_not_included_fails(machine: Machine, file: str) -> None:
    """The remedy includes the folder with pykcm's file."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n")
    machine.write(file, PLAIN)
    check_after_remedy(machine, clients.snippet)
    assert clients.default_ccache(machine.environment()).level is Level.OK


@pytest.mark.usefixtures("mount_namespaces")
def test_missing_default_is_added_to_the_installed_file(machine: Machine) -> None:
    """No second file appears beside the one that is installed and not included."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n")
    machine.write(INSTALLED, PLAIN)
    check_after_remedy(machine, clients.default_ccache)
    assert not machine.path(SNIPPET).exists()


def test_missing_file_is_ok(machine: Machine) -> None:
    """Its file in /etc/krb5.conf.d is not needed; with KRB5_CONFIG it is not looked for."""
    assert clients.snippet(machine.environment()).level is Level.OK
    machine.variables["KRB5_CONFIG"] = "/srv/mine.conf"
    assert clients.snippet(machine.environment()).level is Level.SKIPPED


@pytest.mark.parametrize(
    ("name", "level"),
    [
        (None, Level.OK),
        ("", Level.OK),
        ("KCM:", Level.OK),
        ("KCM:1000", Level.WARNING),
        ("FILE:/tmp/x", Level.WARNING),
    ],
)
def test_other_krb5ccname_is_a_warning(machine: Machine, name: str | None, level: Level) -> None:
    """A KRB5CCNAME that names something else may be intended."""
    if name is not None:
        machine.variables["KRB5CCNAME"] = name
    result = clients.ccache_variable(machine.environment())
    assert result.level is level
    assert bool(result.remedy) == (level is Level.WARNING)


@pytest.mark.usefixtures("mount_namespaces")
def test_wrong_kcm_socket_fails_with_place(machine: Machine) -> None:
    """A kcm_socket where the daemon does not listen fails, and the remedy changes that line."""
    machine.installed()
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    result = check_after_remedy(machine, clients.socket_path)
    assert "/run/kcm/kcm.sock (kcm_socket in /etc/krb5.conf:2)" in result.text
    assert DEFAULT_SOCKET in result.text


def test_disabled_kcm_socket_is_reported(machine: Machine) -> None:
    """kcm_socket = - turns the socket off."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = -\n")
    assert "to no socket at all" in clients.socket_path(machine.environment()).text


@pytest.mark.usefixtures("mount_namespaces")
def test_missing_kcm_socket_fails(machine: Machine) -> None:
    """If the daemon's socket_path is not the default, krb5.conf must name it."""
    machine.write("/etc/pykcm/pykcm.toml", 'socket_path = "/run/kcm/kcm.sock"\n')
    machine.folder("/etc/krb5.conf.d")
    machine.write("/etc/krb5.conf", "[libdefaults]\n")
    assert "kcm_socket is not set" in check_after_remedy(machine, clients.socket_path).text


@pytest.mark.parametrize("before", ["", "    kcm_socket = /run/kcm/kcm.sock\n"])
@pytest.mark.usefixtures("mount_namespaces")
def test_remedy_quotes_socket_path(machine: Machine, before: str) -> None:
    """The remedy sets the daemon's path, whatever characters are in it."""
    machine.write("/etc/pykcm/pykcm.toml", f"socket_path = {json.dumps(f'/run/{ODD}')}\n")
    machine.folder("/etc/krb5.conf.d")
    machine.write("/etc/krb5.conf", f"{INCLUDES}[libdefaults]\n{before}")
    check_after_remedy(machine, clients.socket_path)
    assert machine.environment().client_socket == f"/run/{ODD}"


def test_remedy_quotes_file(machine: Machine) -> None:
    """The file is one word of the remedy, whatever characters are in its name."""
    machine.write(f"/etc/{ODD}", "[libdefaults]\nnonsense\n")
    machine.variables["KRB5_CONFIG"] = f"/etc/{ODD}"
    assert words(clients.profile(machine.environment()))[0][1:] == ["+2", f"/etc/{ODD}"]


def test_any_socket_of_the_unit_is_ok(machine: Machine) -> None:
    """Any path at which systemd listens for the daemon is right, whatever socket_path says."""
    machine.installed()
    machine.units["pykcm.socket"]["Listen"] = [f"{DEFAULT_SOCKET} (Stream)", "/run/kcm/kcm.sock (Stream)"]
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    assert clients.socket_path(machine.environment()).level is Level.OK


def test_socket_of_daemon_started_by_hand_is_a_warning(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A krb5.conf that works must not be changed because --socket-path overrides the configuration."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    machine.listen("/run/kcm/kcm.sock")
    assert clients.socket_path(machine.environment()).level is Level.FAILED
    monkeypatch.setattr(clients, "process_name", lambda _: "pykcmd")
    result = clients.socket_path(machine.environment())
    assert (result.level, result.remedy) == (Level.WARNING, ())
    assert f"where process {os.getpid()} (" in result.text


def test_container_is_skipped(machine: Machine) -> None:
    """Without a daemon on this machine, there is nothing to compare with."""
    machine.config_file.unlink()
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    environment = machine.environment(config_file=None)
    environment.config_files = []
    result = clients.socket_path(environment)
    assert result.level is Level.SKIPPED


def test_heimdal_needs_standard_path(machine: Machine) -> None:
    """A link at the standard path is enough; without Heimdal, nothing is needed."""
    machine.write("/etc/pykcm/pykcm.toml", 'socket_path = "/run/kcm/kcm.sock"\n')
    assert clients.heimdal(machine.environment()).level is Level.OK
    machine.write("/usr/lib/x86_64-linux-gnu/libkrb5.so.26", "")
    machine.listen("/run/kcm/kcm.sock")
    result = clients.heimdal(machine.environment())
    assert result.level is Level.WARNING
    assert result.remedy == (f"ln -s /run/kcm/kcm.sock {DEFAULT_SOCKET}",)
    machine.write("/etc/pykcm/pykcm.toml", f"socket_path = {json.dumps(f'/run/{ODD}')}\n")
    assert words(clients.heimdal(machine.environment())) == [["ln", "-s", f"/run/{ODD}", DEFAULT_SOCKET]]
    machine.write("/etc/pykcm/pykcm.toml", 'socket_path = "/run/kcm/kcm.sock"\n')
    machine.path(DEFAULT_SOCKET).symlink_to(machine.path("/run/kcm/kcm.sock"))
    assert clients.heimdal(machine.environment()).level is Level.OK


def test_heimdal_with_standard_path_is_ok(machine: Machine) -> None:
    machine.write("/usr/bin/kinit.heimdal", "")
    assert clients.heimdal(machine.environment()).level is Level.OK


@pytest.mark.parametrize("main", [None, "", "[libdefaults]\n", f"{INCLUDES}[libdefaults]\n", PLAIN])
@pytest.mark.parametrize("shipped", [None, PLAIN, "[libdefaults]\n    # default_ccache_name = KCM:\n"])
@pytest.mark.usefixtures("mount_namespaces")
def test_remedies_of_all_checks_work_in_order(
    machine: Machine, main: str | None, shipped: str | None
) -> None:
    """After the remedies of all checks, typed one after the other, no check has a problem.

    krb5.conf includes the folder once, and a file that was there before keeps its lines.
    """
    machine.write("/etc/pykcm/pykcm.toml", 'socket_path = "/run/kcm/kcm.sock"\n')
    if main is not None:
        machine.write("/etc/krb5.conf", main)
    if shipped is not None:
        machine.write(SNIPPET, shipped)
    elif main and INCLUDES in main:
        machine.folder("/etc/krb5.conf.d")
    remedies = [command for check in clients.CHECKS for command in check.run(machine.environment()).remedy]
    assert remedies
    machine.do([f"{{ {command}; }}" for command in remedies])
    assert [check.run(machine.environment()).level for check in clients.CHECKS] == [Level.OK] * len(
        clients.CHECKS
    )
    assert machine.path("/etc/krb5.conf").read_text().count("includedir") <= 1
    assert machine.path(SNIPPET).read_text().startswith(shipped or "") if shipped else True


@pytest.mark.usefixtures("mount_namespaces")
def test_replacing_works_after_earlier_remedies_added_lines(machine: Machine) -> None:
    """The commands do not depend on line numbers."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n    default_ccache_name = FILE:/x\n")
    remedy = clients.default_ccache(machine.environment()).remedy
    machine.write("/etc/krb5.conf", "# one line more\n[libdefaults]\n    default_ccache_name = FILE:/x\n")
    machine.do(remedy)
    assert clients.default_ccache(machine.environment()).level is Level.OK


@pytest.mark.usefixtures("mount_namespaces")
def test_missing_included_folder_is_made(machine: Machine) -> None:
    machine.write("/etc/krb5.conf", INCLUDES)
    check_after_remedy(machine, clients.profile)
