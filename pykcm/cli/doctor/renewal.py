"""The check of renewal: whether pykcm-renew runs, reaches the daemon, and has something to do."""

import os
import time
from collections.abc import Mapping
from typing import Any

from pykcm.cli.client import ControlClient
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import RENEW_SERVICE, Unit
from pykcm.cli.output import format_count
from pykcm.control.messages import ControlError
from pykcm.peer.identity import ROOT

_LOG = f"journalctl -u {RENEW_SERVICE} -n 20"

# In seconds.
_PATIENCE = 10.0

# In seconds: pykcm-renew connects within a second to a daemon that has just started, as for this check.
_CONNECTED_WITHIN = 3.0
_BETWEEN_LOOKS = 0.1


def renewal(environment: Environment) -> Result:
    """Check that TGTs are renewed, where pykcm-renew is enabled or runs."""
    unit = environment.unit(RENEW_SERVICE)
    is_wanted = unit.loaded and (unit.enabled in {"enabled", "enabled-runtime"} or unit.active != "inactive")
    if not is_wanted:
        return skipped(f"{RENEW_SERVICE} is not enabled: TGTs are not renewed")
    if not environment.config.tgt_renewal:
        return warning(
            f"tgt_renewal = false: {RENEW_SERVICE} gets no TGTs",
            f"systemctl disable --now {RENEW_SERVICE}",
        )
    if not unit.runs:
        return failed(f"{RENEW_SERVICE} is {unit.active}: TGTs are not renewed", *_start(unit))
    if environment.uid != ROOT:
        return skipped("needs root: only root sees the state of renewals")
    return _ask(environment)


def _start(unit: Unit) -> tuple[str, ...]:
    reset = [f"systemctl reset-failed {RENEW_SERVICE}"] if unit.active == "failed" else []
    return (_LOG, *reset, f"systemctl start {RENEW_SERVICE}")


def _ask(environment: Environment) -> Result:
    """Ask the daemon for the state of renewals."""
    path = os.fspath(environment.path(environment.control_path))
    end = time.monotonic() + _CONNECTED_WITHIN
    while True:
        try:
            answer = list(ControlClient(path, patience=_PATIENCE).ask("stats"))
        except (OSError, ControlError):
            answer = []
        if not answer:
            return skipped(f"{environment.control_path}: no answer: see control socket")
        renewals: Mapping[str, Any] | None = answer[0].get("renewals")
        if renewals is not None and renewals["client"]:
            return ok(_state(renewals))
        if time.monotonic() >= end:
            return failed(f"{RENEW_SERVICE} runs, and is not connected to the daemon", _LOG)
        # The daemon reports no new clients.
        time.sleep(_BETWEEN_LOOKS)


def _state(renewals: Mapping[str, Any]) -> str:
    text = f"pykcm-renew is connected: {format_count(renewals['known'], 'TGT')} can be renewed"
    failures = ", ".join(f"{number} {reason}" for reason, number in sorted(renewals["failures"].items()))
    return f"{text}; failures since the daemon started: {failures}" if failures else text


CHECKS = (Check("renewal", renewal),)
