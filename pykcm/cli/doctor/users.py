"""Checks of the users who have ccaches: their quotas and their accounts."""

import os
from typing import Any

from pykcm.cli.client import ControlClient
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.names import format_user, user_name
from pykcm.cli.output import format_count
from pykcm.control.messages import ControlError
from pykcm.peer.identity import ROOT

# From this share of a quota on, the next ticket may be refused.
_FULL = 0.95

# Users that are named; further ones are counted.
_MOST_NAMED = 5

# In seconds.
_PATIENCE = 30.0

_QUOTAS = {
    "max_uid_ccaches": ("ccaches", "max_ccaches"),
    "max_uid_size": ("size", "max_size"),
    "max_uid_credentials": ("credentials", "max_credentials"),
}


def _uses(environment: Environment) -> Result | list[dict[str, Any]]:
    """Each user's use of the quotas; or the result, if the daemon does not say it."""
    if environment.uid != ROOT:
        return skipped("needs root: only root sees the ccaches of all users")
    path = environment.path(environment.control_path)
    if not path.exists():
        return skipped(f"{environment.control_path} does not exist: see control socket")
    try:
        answer = ControlClient(os.fspath(path), patience=_PATIENCE).ask("list")
        return [item["user"] for item in answer if "user" in item]
    except ControlError as error:
        return failed(f"the ccaches cannot be listed: {error.message}", "journalctl -u pykcm.service -n 20")
    except OSError as error:
        return skipped(
            f"{environment.control_path}: no answer ({error.strerror or error}): see control socket"
        )


def quotas(environment: Environment) -> Result:
    """Check that no user is at a quota: the next ticket is refused, or removes another one."""
    uses = _uses(environment)
    return uses if isinstance(uses, Result) else quota_result(uses)


def quota_result(uses: list[dict[str, Any]]) -> Result:
    full = [
        (use["uid"], option)
        for use in uses
        for option, (number, limit) in _QUOTAS.items()
        if use[limit] and use[number] >= _FULL * use[limit]
    ]
    if not full:
        return ok("no user is at a quota")
    named = _some([f"{format_user(uid)} ({option})" for uid, option in full])
    return warning(
        f'at a quota: {named}; kinit may say "Disk quota exceeded"', f"pykcmctl list --user {full[0][0]}"
    )


def accounts(environment: Environment) -> Result:
    """Check that every UID with ccaches has an account: tickets of deleted users stay until they expire."""
    uses = _uses(environment)
    return uses if isinstance(uses, Result) else account_result([use["uid"] for use in uses])


def account_result(uids: list[int]) -> Result:
    unknown = [uid for uid in uids if user_name(uid) is None]
    if not unknown:
        return ok(f"every UID with ccaches has an account ({format_count(len(uids), 'user')})")
    named = _some([*map(str, unknown)])
    return warning(
        f"ccaches of UIDs without an account here: {named}; the users were deleted, or belong to a container",
        f"pykcmctl list --user {unknown[0]}",
    )


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


CHECKS = (Check("quotas", quotas), Check("accounts", accounts))
