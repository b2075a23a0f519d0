"""A check that cannot be completed does not end the others."""

from itertools import chain

import pytest

from pykcm.cli.doctor.command import all_groups
from pykcm.cli.doctor.results import Check, Level, run_check

from .machine import Machine


def test_missing_permission_skips_the_check(machine: Machine) -> None:
    """For users other than root the check is skipped and names the path; for root it fails."""

    def refused(environment: object) -> object:
        raise PermissionError(13, "Permission denied", "/var/lib/pykcm")

    check = Check("any", refused)  # type: ignore[arg-type]
    result = run_check(check, machine.environment(uid=1000))
    assert result.level is Level.SKIPPED
    assert "other users may not read /var/lib/pykcm" in result.text
    assert run_check(check, machine.environment()).level is Level.FAILED


@pytest.mark.parametrize("check", [*chain(*all_groups().values())], ids=lambda check: check.name)
def test_unusable_configuration_skips_other_checks(machine: Machine, check: Check) -> None:
    """If krb5.conf and the configuration cannot be used, only their own checks fail."""
    machine.write("/etc/krb5.conf", "[libdefaults\n")
    machine.write("/etc/pykcm/pykcm.toml", "nonsense\n")
    result = run_check(check, machine.environment())
    if check.name in {"configuration", "krb5.conf"}:
        assert result.level is Level.FAILED
    else:
        assert result.level in {Level.OK, Level.SKIPPED}
