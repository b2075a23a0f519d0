"""What the doctor says of krb5.conf and the environment, and that its remedies are ones."""

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


def check_mends(machine: Machine, check: Callable[[Environment], Result]) -> Result:
    """What the check says; after its remedy it must be content."""
    before = check(machine.environment())
    assert before.level is Level.FAILED
    machine.do(before.remedy)
    after = check(machine.environment())
    assert after.level is Level.OK, after
    return before


def test_krb5_conf(machine: Machine) -> None:
    """A krb5.conf that libkrb5 reads is named with what it includes."""
    machine.write("/etc/krb5.conf", INCLUDES)
    machine.write(SNIPPET, PLAIN)
    result = clients.profile(machine.environment())
    assert result.level is Level.OK
    assert result.text == f"read from /etc/krb5.conf, {SNIPPET}"


def test_no_krb5_conf(machine: Machine) -> None:
    """That there is none is no mistake."""
    assert clients.profile(machine.environment()).level is Level.OK


def test_a_mistake_in_krb5_conf(machine: Machine) -> None:
    """A line that libkrb5 does not take is named by file and number."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n\nKCM:\n")
    result = clients.profile(machine.environment())
    assert result.level is Level.FAILED
    assert "/etc/krb5.conf:3:" in result.text
    assert result.remedy == ("${EDITOR:-vi} +3 /etc/krb5.conf",)


def test_an_include_of_nothing(machine: Machine) -> None:
    """A folder that is included and missing makes all of Kerberos fail, and so the check."""
    machine.write("/etc/krb5.conf", INCLUDES)
    assert "/etc/krb5.conf.d/ cannot be included" in clients.profile(machine.environment()).text


def test_krb5_config(machine: Machine) -> None:
    """KRB5_CONFIG counts, with several files, of which some may be missing."""
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
def test_another_default(machine: Machine, name: str, says: str) -> None:
    """Any default but plain KCM: fails by its place, and the remedy mends that very line."""
    machine.write("/etc/krb5.conf", f"{INCLUDES}[libdefaults]\n    default_ccache_name = {name}\n[realms]\n")
    machine.folder("/etc/krb5.conf.d")
    result = check_mends(machine, clients.default_ccache)
    assert says in result.text
    assert "/etc/krb5.conf:3" in result.text
    assert machine.path("/etc/krb5.conf").read_text().endswith("= KCM:\n[realms]\n")


@pytest.mark.parametrize("main", [None, "", "[libdefaults]\n    default_realm = A\n", INCLUDES])
@pytest.mark.usefixtures("mount_namespaces")
def test_no_default(machine: Machine, main: str | None) -> None:
    """Where no default is set the remedy sets it, and includes it where that is missing."""
    machine.folder("/etc/krb5.conf.d")
    if main is not None:
        machine.write("/etc/krb5.conf", main or "\n")
    assert "is not set" in check_mends(machine, clients.default_ccache).text
    assert clients.snippet(machine.environment()).level is Level.OK


def test_what_stands_first_counts(machine: Machine) -> None:
    """A snippet that is included behind another value does not count, and the check names the other one."""
    machine.write("/etc/krb5.conf", f"[libdefaults]\n  default_ccache_name = FILE:/x\n{INCLUDES}")
    machine.write(SNIPPET, PLAIN)
    result = clients.default_ccache(machine.environment())
    assert result.level is Level.FAILED
    assert "/etc/krb5.conf:2" in result.text


@pytest.mark.usefixtures("mount_namespaces")
def test_a_snippet_that_is_not_included(machine: Machine) -> None:
    """A snippet in a folder that krb5.conf does not include fails, and the remedy includes it."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n")
    machine.write(SNIPPET, PLAIN)
    check_mends(machine, clients.snippet)
    assert clients.default_ccache(machine.environment()).level is Level.OK


def test_no_snippet(machine: Machine) -> None:
    """One that is not installed is no mistake by itself, and with KRB5_CONFIG nobody looks for it."""
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
def test_krb5ccname(machine: Machine, name: str | None, level: Level) -> None:
    """A KRB5CCNAME that leads elsewhere is a warning: it may be meant so."""
    if name is not None:
        machine.variables["KRB5CCNAME"] = name
    result = clients.ccache_variable(machine.environment())
    assert result.level is level
    assert bool(result.remedy) == (level is Level.WARNING)


@pytest.mark.usefixtures("mount_namespaces")
def test_another_socket_in_krb5_conf(machine: Machine) -> None:
    """A kcm_socket where the daemon does not listen fails by its place, and the remedy mends that line."""
    machine.installed()
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    result = check_mends(machine, clients.socket_path)
    assert "/run/kcm/kcm.sock (kcm_socket in /etc/krb5.conf:2)" in result.text
    assert DEFAULT_SOCKET in result.text


def test_no_socket_in_krb5_conf(machine: Machine) -> None:
    """kcm_socket = - turns the socket off."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = -\n")
    assert "to no socket at all" in clients.socket_path(machine.environment()).text


@pytest.mark.usefixtures("mount_namespaces")
def test_another_socket_of_the_daemon(machine: Machine) -> None:
    """A socket_path of the daemon that krb5.conf does not name fails, and the remedy names it."""
    machine.write("/etc/pykcm/pykcm.toml", 'socket_path = "/run/kcm/kcm.sock"\n')
    machine.folder("/etc/krb5.conf.d")
    machine.write("/etc/krb5.conf", "[libdefaults]\n")
    assert "kcm_socket is not set" in check_mends(machine, clients.socket_path).text


@pytest.mark.parametrize("before", ["", "    kcm_socket = /run/kcm/kcm.sock\n"])
@pytest.mark.usefixtures("mount_namespaces")
def test_an_odd_socket_of_the_daemon(machine: Machine, before: str) -> None:
    """The remedy names the daemon's socket, whatever is in its name."""
    machine.write("/etc/pykcm/pykcm.toml", f"socket_path = {json.dumps(f'/run/{ODD}')}\n")
    machine.folder("/etc/krb5.conf.d")
    machine.write("/etc/krb5.conf", f"{INCLUDES}[libdefaults]\n{before}")
    check_mends(machine, clients.socket_path)
    assert machine.environment().client_socket == f"/run/{ODD}"


def test_an_odd_file(machine: Machine) -> None:
    """A file that cannot be read is one word of the command, whatever is in its name."""
    machine.write(f"/etc/{ODD}", "[libdefaults]\nnonsense\n")
    machine.variables["KRB5_CONFIG"] = f"/etc/{ODD}"
    assert words(clients.profile(machine.environment()))[0][1:] == ["+2", f"/etc/{ODD}"]


def test_one_of_the_units_sockets(machine: Machine) -> None:
    """Any path at which systemd listens for the daemon will do; socket_path is not what counts then."""
    machine.installed()
    machine.units["pykcm.socket"]["Listen"] = [f"{DEFAULT_SOCKET} (Stream)", "/run/kcm/kcm.sock (Stream)"]
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    assert clients.socket_path(machine.environment()).level is Level.OK


def test_a_daemon_started_by_hand(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """--socket-path counts more than the configuration: a krb5.conf that works is not to be changed."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    machine.listen("/run/kcm/kcm.sock")
    assert clients.socket_path(machine.environment()).level is Level.FAILED
    monkeypatch.setattr(clients, "process_name", lambda _: "pykcmd")
    result = clients.socket_path(machine.environment())
    assert (result.level, result.remedy) == (Level.WARNING, ())
    assert f"where process {os.getpid()} (" in result.text


def test_in_a_container(machine: Machine) -> None:
    """Where nothing of the daemon is, as in a container, there is nothing to compare with."""
    machine.config_file.unlink()
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n")
    environment = machine.environment(config_file=None)
    environment.config_files = []
    result = clients.socket_path(environment)
    assert result.level is Level.SKIPPED


def test_heimdal(machine: Machine) -> None:
    """Heimdal's programs need the standard path: a link does, and nothing is said where there are none."""
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


def test_heimdal_at_the_standard_path(machine: Machine) -> None:
    """With the standard path they need nothing."""
    machine.write("/usr/bin/kinit.heimdal", "")
    assert clients.heimdal(machine.environment()).level is Level.OK
