"""No check ends the others: what it cannot look at, or go by, is said."""

import pytest

from pykcm.cli.doctor.command import all_checks
from pykcm.cli.doctor.results import Check, Level, run_check

from .machine import Machine


def test_what_may_not_be_looked_at(machine: Machine) -> None:
    """What only root may see is skipped for others, with the path, and no check ends the others."""

    def refused(environment: object) -> object:
        raise PermissionError(13, "Permission denied", "/var/lib/pykcm")

    check = Check("any", refused)  # type: ignore[arg-type]
    result = run_check(check, machine.environment(uid=1000))
    assert result.level is Level.SKIPPED
    assert "other users may not read /var/lib/pykcm" in result.text
    assert run_check(check, machine.environment()).level is Level.FAILED


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_nothing_to_go_by(machine: Machine, check: Check) -> None:
    """With a krb5.conf and a configuration that cannot be read every check comes to something."""
    machine.write("/etc/krb5.conf", "[libdefaults\n")
    machine.write("/etc/pykcm/pykcm.toml", "nonsense\n")
    result = run_check(check, machine.environment())
    if check.name in {"configuration", "krb5.conf"}:
        assert result.level is Level.FAILED
    else:
        assert result.level in {Level.OK, Level.SKIPPED}
