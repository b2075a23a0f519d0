"""No check ends the others: what it cannot look at, or go by, is said."""

import pytest

from pykcm.cli.doctor.checks import CHECKS
from pykcm.cli.doctor.outcomes import Check, Level, outcome_of

from .machine import Machine


def test_what_may_not_be_looked_at(machine: Machine) -> None:
    """What only root may see is skipped for others, with the path, and no check ends the others."""

    def refused(where: object) -> object:
        raise PermissionError(13, "Permission denied", "/var/lib/pykcm")

    check = Check("any", refused)  # type: ignore[arg-type]
    outcome = outcome_of(check, machine.where(uid=1000))
    assert outcome.level is Level.SKIPPED
    assert "needs root: /var/lib/pykcm" in outcome.text
    assert outcome_of(check, machine.where()).level is Level.FAILED


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_nothing_to_go_by(machine: Machine, check: Check) -> None:
    """With a krb5.conf and a configuration that cannot be read every check comes to something."""
    machine.write("/etc/krb5.conf", "[libdefaults\n")
    machine.write("/etc/pykcm/pykcm.toml", "nonsense\n")
    outcome = outcome_of(check, machine.where())
    if check.name in {"configuration", "krb5.conf"}:
        assert outcome.level is Level.FAILED
    else:
        assert outcome.level in {Level.OK, Level.SKIPPED}
