"""The doctor's checks of the users' quotas, accounts, defaults, damaged ccaches and clocks."""

from typing import Any

import pytest

from pykcm.cli.doctor import users
from pykcm.cli.doctor.results import Level
from pykcm.cli.doctor.users import Listing

from .machine import CONTROL, Machine

NOW = 1_000_000

USE: dict[str, Any] = {
    "uid": 4_000_000,
    "ccaches": 1,
    "max_ccaches": 64,
    "size": 10,
    "max_size": 1000,
    "credentials": 5,
    "max_credentials": 0,
    "missing_default": None,
}

ROW: dict[str, Any] = {
    "uid": 4_000_000,
    "name": b"4000000",
    "principal": "alice@EXAMPLE.COM",
    "default": True,
    "current_default": True,
    "expires": NOW + 100,
    "tgt_expires": NOW + 100,
    "kdc_offset": 0,
}


def listing(*rows: dict[str, Any], uses: list[dict[str, Any]] | None = None, **summary: int) -> Listing:
    return Listing([ROW | row for row in rows], uses or [], dict(summary))


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
    result = users.quota_result(listing(uses=[USE | {"uid": 1}, USE | change]))
    assert result.level is (Level.WARNING if option else Level.OK)
    if option:
        assert f"{option} of UID 4000000" in result.text
        assert result.remedy == ("pykcmctl list --user 4000000",)


@pytest.mark.parametrize(("number", "level"), [(94, Level.OK), (95, Level.WARNING), (100, Level.WARNING)])
def test_quota_of_all_users_together_is_checked(number: int, level: Level) -> None:
    result = users.quota_result(listing(uses=[USE], all_ccaches=number, max_ccaches=100))
    assert result.level is level
    assert (f"{number} of 100 ccaches (max_ccaches)" in result.text) is (level is Level.WARNING)


def test_uid_without_account_is_named() -> None:
    assert users.account_result([0]).level is Level.OK
    result = users.account_result([0, *range(4_000_000, 4_000_008)])
    assert result.level is Level.WARNING
    assert "4000004 and 3 more" in result.text


def test_default_that_names_nothing_is_named() -> None:
    """If another ccache takes its place the remedy chooses that one, otherwise the one that ends last."""
    assert users.default_result(listing({}, uses=[USE])).level is Level.OK
    use = USE | {"missing_default": b"4000000:work"}
    replaced = users.default_result(listing({"default": False}, uses=[use]))
    assert replaced.level is Level.WARNING
    assert "KCM:4000000:work of UID 4000000" in replaced.text
    assert "used in its place" in replaced.text
    assert replaced.remedy[-1] == "pykcmctl switch --uid 4000000 KCM:4000000"
    none = {"default": False, "current_default": False}
    lost = users.default_result(
        listing(none, none | {"name": b"4000000:b", "expires": NOW + 200}, uses=[use])
    )
    assert "programs of UID 4000000 find no tickets" in lost.text
    assert lost.remedy[-1] == "pykcmctl switch --uid 4000000 KCM:4000000:b"
    damaged = users.default_result(listing(none | {"principal": None}, uses=[use]))
    assert damaged.remedy == ("pykcmctl list --user 4000000",)


def test_damaged_ccache_is_named(machine: Machine) -> None:
    environment = machine.environment()
    assert users.damage_result(environment, listing({})).level is Level.OK
    result = users.damage_result(environment, listing({}, {"name": b"1:a b", "principal": None}))
    assert result.level is Level.FAILED
    assert "KCM:1:a b" in result.text
    assert result.remedy == (
        "# look for 'cannot be read' in the log of pykcmd",
        "pykcmctl destroy --yes 'KCM:1:a b'",
    )


@pytest.mark.parametrize(
    ("offsets", "level", "text"),
    [
        ([0, 3, -5], Level.OK, "within 60 s"),
        ([90], Level.WARNING, "90 s behind"),
        ([-90], Level.WARNING, "90 s ahead of"),
        ([400, 410, 0], Level.FAILED, "400 s behind"),
        ([0, 900], Level.OK, "within 60 s"),
        # One user's own offset does not count against the others'.
        ([0, 1, 2**31 - 1], Level.OK, "within 60 s"),
    ],
)
def test_clock_is_compared_with_the_kdcs(offsets: list[int], level: Level, text: str) -> None:
    rows = [{"uid": uid, "kdc_offset": offset} for uid, offset in enumerate(offsets)]
    result = users.clock_result(listing(*rows), NOW)
    assert result.level is level
    assert text in result.text
    assert result.remedy == (() if level is Level.OK else ("timedatectl status", "timedatectl set-ntp true"))


def test_clock_is_judged_by_each_users_latest_tickets() -> None:
    """An offset of expired tickets may be that of a clock which was set since."""
    old = {"kdc_offset": 900, "tgt_expires": NOW + 10}
    assert users.clock_result(listing(old, {}), NOW).level is Level.OK
    assert users.clock_result(listing(old | {"tgt_expires": NOW}), NOW).text.startswith("no valid ticket")


def test_users_are_skipped_without_root_or_daemon(machine: Machine) -> None:
    for check in users.CHECKS:
        assert check.run(machine.environment(uid=1000)).text.startswith("needs root")
        assert check.run(machine.environment()).level is Level.SKIPPED
    machine.listen(CONTROL).close()
    assert users.quotas(machine.environment()).level is Level.SKIPPED
