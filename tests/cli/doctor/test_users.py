"""The doctor's checks of quotas and accounts."""

from typing import Any

import pytest

from pykcm.cli.doctor import users
from pykcm.cli.doctor.results import Level

from .machine import CONTROL, Machine

USE: dict[str, Any] = {
    "uid": 4_000_000,
    "ccaches": 1,
    "max_ccaches": 64,
    "size": 10,
    "max_size": 1000,
    "credentials": 5,
    "max_credentials": 0,
}


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({}, None),
        ({"ccaches": 64}, "max_uid_ccaches"),
        ({"size": 960}, "max_uid_size"),
        ({"credentials": 20, "max_credentials": 20}, "max_uid_credentials"),
        ({"ccaches": 60}, None),
    ],
)
def test_user_at_a_quota_is_named(change: dict[str, int], option: str | None) -> None:
    """A quota of 0 is no limit."""
    result = users.quota_result([USE | {"uid": 1}, USE | change])
    assert result.level is (Level.WARNING if option else Level.OK)
    if option:
        assert f"UID 4000000 ({option})" in result.text
        assert result.remedy == ("pykcmctl list --user 4000000",)


def test_uid_without_account_is_named() -> None:
    assert users.account_result([0]).level is Level.OK
    result = users.account_result([0, *range(4_000_000, 4_000_008)])
    assert result.level is Level.WARNING
    assert "4000004 and 3 more" in result.text


def test_users_are_skipped_without_root_or_daemon(machine: Machine) -> None:
    for check in (users.quotas, users.accounts):
        assert check(machine.environment(uid=1000)).text.startswith("needs root")
        assert check(machine.environment()).level is Level.SKIPPED
    machine.listen(CONTROL).close()
    assert users.quotas(machine.environment()).level is Level.SKIPPED
