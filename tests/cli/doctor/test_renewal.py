"""The doctor's check of renewal, with a fake systemctl and a control socket that answers `stats`."""

from collections.abc import Iterator
from typing import Any

import pytest

from pykcm.cli.client import ControlClient
from pykcm.cli.doctor import renewal
from pykcm.cli.doctor.results import Level

from .machine import Machine

_UNIT = "pykcm-renew.service"
_RUNNING: dict[str, str | list[str]] = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "ActiveState": "active",
}
_NONE: dict[str, Any] = {"client": False, "known": 0, "failures": {}}
_CONNECTED: dict[str, Any] = {"client": True, "known": 2, "failures": {"unreachable": 3}}


@pytest.fixture
def renewing(machine: Machine) -> Machine:
    """A machine on which pykcm-renew is enabled and runs."""
    machine.installed()
    machine.units[_UNIT] = dict(_RUNNING)
    return machine


def answer(monkeypatch: pytest.MonkeyPatch, *states: dict[str, Any] | None) -> None:
    """Answer `stats` with these states of renewals, the last one again and again."""
    left = list(states)

    def ask(self: ControlClient, op: str, **_: Any) -> Iterator[dict[str, Any]]:
        assert op == "stats"
        yield {"renewals": left.pop(0) if len(left) > 1 else left[0]}

    monkeypatch.setattr(ControlClient, "ask", ask)


def test_connected_program_is_ok(renewing: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check tells how many TGTs can be renewed, and the failures by reason."""
    answer(monkeypatch, _CONNECTED)
    result = renewal.renewal(renewing.environment())
    assert result.level is Level.OK
    assert "2 TGTs can be renewed; failures since the daemon started: 3 unreachable" in result.text


def test_program_that_connects_in_a_moment_is_ok(renewing: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself may have started the daemon."""
    monkeypatch.setattr(renewal, "_CONNECTED_WITHIN", 60.0)
    answer(monkeypatch, None, _NONE, _CONNECTED)
    assert renewal.renewal(renewing.environment()).level is Level.OK


def test_program_that_does_not_connect_fails(renewing: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is the program's log."""
    monkeypatch.setattr(renewal, "_CONNECTED_WITHIN", 0.2)
    answer(monkeypatch, _NONE)
    result = renewal.renewal(renewing.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"journalctl -u {_UNIT} -n 20",))


@pytest.mark.parametrize("changes", [{"LoadState": "not-found"}, {"UnitFileState": "disabled"}])
def test_program_that_is_not_enabled_is_skipped(machine: Machine, changes: dict[str, str]) -> None:
    """Renewal is the administrator's choice."""
    machine.installed()
    machine.units[_UNIT] = _RUNNING | {"ActiveState": "inactive"}
    machine.units[_UNIT] |= changes
    assert renewal.renewal(machine.environment()).level is Level.SKIPPED


@pytest.mark.parametrize(
    ("state", "commands"),
    [
        ("inactive", [f"systemctl start {_UNIT}"]),
        ("failed", [f"systemctl reset-failed {_UNIT}", f"systemctl start {_UNIT}"]),
    ],
)
def test_program_that_has_ended_fails(renewing: Machine, state: str, commands: list[str]) -> None:
    """The remedy shows the log, and starts it."""
    renewing.units[_UNIT]["ActiveState"] = state
    result = renewal.renewal(renewing.environment())
    assert result.level is Level.FAILED
    assert list(result.remedy[1:]) == commands


def test_program_without_work_is_a_warning(renewing: Machine) -> None:
    """With tgt_renewal = false the daemon hands no TGT over."""
    renewing.write("/etc/pykcm/pykcm.toml", "tgt_renewal = false\n")
    result = renewal.renewal(renewing.environment())
    assert (result.level, result.remedy) == (Level.WARNING, (f"systemctl disable --now {_UNIT}",))


def test_other_users_see_the_unit_alone(renewing: Machine) -> None:
    """Without root a unit that has ended is seen, and the daemon is not asked."""
    assert renewal.renewal(renewing.environment(uid=1000)).level is Level.SKIPPED
    renewing.units[_UNIT]["ActiveState"] = "failed"
    assert renewal.renewal(renewing.environment(uid=1000)).level is Level.FAILED
