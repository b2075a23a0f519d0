"""The doctor's check of AppArmor's profiles."""

import os

import pytest

from pykcm.cli.doctor.apparmor import apparmor
from pykcm.cli.doctor.results import Level
from pykcm.config import DEFAULT_SOCKET

from .machine import Machine

FOLDER = "/etc/apparmor.d"
ADDITIONS = "  include if exists <abstractions/kerberosclient.d>\n"
PROFILE = "include <tunables/global>\nprofile {name} /usr/bin/{name}{flags} {{\n{rules}}}\n"


@pytest.fixture
def confined(machine: Machine) -> Machine:
    """A machine with AppArmor, and a profile `mail` whose program uses Kerberos."""
    machine.write("/sys/kernel/security/apparmor/profiles", "mail (enforce)\nother (complain)\n")
    machine.write("/sys/kernel/security/apparmor/features/network/af_unix", "yes\n")
    machine.write(f"{FOLDER}/abstractions/kerberosclient", f"  /etc/krb5.conf r,\n{ADDITIONS}")
    machine.write(f"{FOLDER}/abstractions/nameservice", "  #include <abstractions/kerberosclient>\n")
    profile(machine, "mail", "  include <abstractions/nameservice>\n")
    profile(machine, "other", "  /etc/passwd r,\n")
    return machine


def profile(machine: Machine, name: str, rules: str, flags: str = "") -> None:
    machine.write(f"{FOLDER}/{name}", PROFILE.format(name=name, rules=rules, flags=flags))


def test_profile_without_a_rule_for_the_socket_is_named(confined: Machine) -> None:
    """Only profiles of programs that use Kerberos count, through all includes."""
    result = apparmor(confined.environment())
    assert result.level is Level.WARNING
    assert "do not allow it: mail" in result.text
    assert "other" not in result.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount another /etc")
@pytest.mark.parametrize("additions", ["", ADDITIONS])
def test_remedy_allows_the_socket(confined: Machine, additions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands work also where the abstraction has no folder for additions, and twice."""
    confined.write(f"{FOLDER}/abstractions/kerberosclient", f"  /etc/krb5.conf r,\n{additions}")
    *commands, reload = apparmor(confined.environment()).remedy
    assert reload == f"apparmor_parser --replace {FOLDER}"
    confined.has_systemd()
    assert apparmor(confined.environment()).remedy[-1] == "systemctl reload apparmor.service"
    confined.do([*commands, *commands])
    assert apparmor(confined.environment()).level is Level.OK


@pytest.mark.parametrize(
    ("rule", "is_allowed"),
    [
        (f"{DEFAULT_SOCKET} rw,", True),
        ("/{,var/}run/.heim_org.h5l.kcm-socket wr,", True),
        ("owner @{run}/.heim_org.h5l.kcm-socket rw,", True),
        ('"/run/.heim_org.h5l.kcm-socket" w,', True),
        ("/run/** rw,", True),
        ("/run/* rw,", True),
        ("/run/?heim_org.h5l.kcm[-_]socket rw,", True),
        (f"{DEFAULT_SOCKET} r,", False),
        (f"# {DEFAULT_SOCKET} rw,", False),
        (f"deny {DEFAULT_SOCKET} rw,", False),
        ("/run/other rw,", False),
        ("/run/{,a rw,", False),
        ("/tmp/** rw,", False),
    ],
)
def test_rules_that_allow_the_socket(confined: Machine, rule: str, is_allowed: bool) -> None:
    """A rule may stand in the profile itself, and have patterns."""
    profile(confined, "mail", f"  include <abstractions/kerberosclient>\n  {rule}\n")
    assert apparmor(confined.environment()).level is (Level.OK if is_allowed else Level.WARNING)


def test_profiles_that_are_not_enforced_do_not_count(confined: Machine) -> None:
    profile(
        confined, "mail", "  include <abstractions/kerberosclient>\n", " flags=(attach_disconnected,complain)"
    )
    assert apparmor(confined.environment()).level is Level.OK
    for folder in ("disable", "force-complain"):
        profile(confined, "mail", "  include <abstractions/kerberosclient>\n")
        assert apparmor(confined.environment()).level is Level.WARNING
        confined.write(f"{FOLDER}/{folder}/mail", "")
        assert apparmor(confined.environment()).level is Level.OK
        confined.path(f"{FOLDER}/{folder}/mail").unlink()
    confined.write("/sys/kernel/security/apparmor/profiles", "mail (complain)\n")
    assert "no profile" in apparmor(confined.environment()).text


def test_kernels_that_do_not_control_sockets_are_fine(confined: Machine, machine: Machine) -> None:
    """Without the feature af_unix, AppArmor lets every program connect."""
    confined.path("/sys/kernel/security/apparmor/features/network/af_unix").unlink()
    assert apparmor(confined.environment()).level is Level.OK


def test_machine_without_apparmor_is_fine(machine: Machine) -> None:
    assert apparmor(machine.environment()).text == "the kernel does not use AppArmor"


def test_includes_in_a_circle_end(confined: Machine) -> None:
    confined.write(f"{FOLDER}/abstractions/kerberosclient", "include <abstractions/nameservice>\n")
    assert apparmor(confined.environment()).level is Level.WARNING
