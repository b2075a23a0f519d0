"""Checks of the users who have ccaches: their quotas, accounts, defaults and clocks."""

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pykcm.cli.client import ControlClient
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.names import format_ccache, format_user, user_name
from pykcm.cli.output import format_count, shell_quote
from pykcm.control.messages import ControlError
from pykcm.peer.identity import ROOT

# From this share of a quota on, the next ticket may be refused.
_FULL = 0.95

# Users that are named; further ones are counted.
_MOST_NAMED = 5

# In seconds.
_PATIENCE = 30.0

# In seconds: the skew that Kerberos services accept by default, and what is worth a warning.
_REFUSED_SKEW = 300
_LARGE_SKEW = 60

_QUOTAS = {
    "max_uid_ccaches": ("ccaches", "max_ccaches"),
    "max_uid_size": ("size", "max_size"),
    "max_uid_credentials": ("credentials", "max_credentials"),
}


class Listing(NamedTuple):
    """The reply to the request list: ccaches, each user's use of the quotas, and the end."""

    ccaches: list[dict[str, Any]]
    uses: list[dict[str, Any]]
    summary: dict[str, Any]


def _listing(environment: Environment) -> Result | Listing:
    """The ccaches of all users; or the result of a check, if the daemon does not list them."""
    if "list" not in environment.answers:
        environment.answers["list"] = _ask(environment)
    answer: Result | Listing = environment.answers["list"]
    return answer


def _ask(environment: Environment) -> Result | Listing:
    if environment.uid != ROOT:
        return skipped("needs root: only root sees the ccaches of all users")
    path = environment.path(environment.control_path)
    if not path.exists():
        return skipped(f"{environment.control_path} does not exist: see control socket")
    found = Listing([], [], {})
    try:
        answer = ControlClient(os.fspath(path), patience=_PATIENCE).ask("list")
        for item in answer:
            if "user" in item:
                found.uses.append(item["user"])
            else:
                found.ccaches.append(item["ccache"])
    except ControlError as error:
        return failed(f"the ccaches cannot be listed: {error.message}", environment.log_command)
    except OSError as error:
        return skipped(
            f"{environment.control_path}: no answer ({error.strerror or error}): see control socket"
        )
    found.summary.update(answer.summary)
    return found


def quotas(environment: Environment) -> Result:
    """Check that no user is at a quota: the next ticket is refused, or removes another one."""
    listing = _listing(environment)
    return listing if isinstance(listing, Result) else quota_result(listing)


def quota_result(listing: Listing) -> Result:
    total, most = listing.summary.get("all_ccaches", 0), listing.summary.get("max_ccaches", 0)
    if most and total >= _FULL * most:
        return warning(
            f'all users together have {total} of {most} ccaches (max_ccaches): kinit says "Disk quota '
            'exceeded"',
            "pykcmctl list --sort expires",
            "pykcmctl destroy --expired",
        )
    full = [
        (use["uid"], option)
        for use in listing.uses
        for option, (number, limit) in _QUOTAS.items()
        if use[limit] and use[number] >= _FULL * use[limit]
    ]
    if not full:
        return ok("no user is at a quota")
    named = _some([f"{option} of {format_user(uid)}" for uid, option in full])
    return warning(
        f'at a quota: {named}; kinit may say "Disk quota exceeded"',
        f"pykcmctl list --user {_named_user(full[0][0])}",
    )


def _named_user(uid: int) -> str:
    """The user as an option of a command names them."""
    return shell_quote(user_name(uid) or str(uid))


def accounts(environment: Environment) -> Result:
    """Check that every UID with ccaches has an account: tickets of deleted users stay until they expire."""
    listing = _listing(environment)
    return listing if isinstance(listing, Result) else account_result([use["uid"] for use in listing.uses])


def account_result(uids: list[int]) -> Result:
    unknown = [uid for uid in uids if user_name(uid) is None]
    if not unknown:
        return ok(f"every UID with ccaches has an account ({format_count(len(uids), 'user')})")
    named = _some([*map(str, unknown)])
    return warning(
        f"ccaches of UIDs without an account here: {named}; the users were deleted, or belong to a container",
        f"pykcmctl list --user {unknown[0]}",
    )


def defaults(environment: Environment) -> Result:
    """Check that the default ccache of each user exists: without one, programs find no tickets."""
    listing = _listing(environment)
    return listing if isinstance(listing, Result) else default_result(listing)


def default_result(listing: Listing) -> Result:
    missing = {use["uid"]: use["missing_default"] for use in listing.uses if use.get("missing_default")}
    if not missing:
        return ok("the default ccache of each user exists")
    current = {row["uid"]: row["name"] for row in listing.ccaches if row["current_default"]}
    named = _some([f"{format_ccache(name)} of {format_user(uid)}" for uid, name in missing.items()])
    lost = [uid for uid in missing if uid not in current]
    uid = (lost or [*missing])[0]
    wanted = current.get(uid) or _longest_valid(listing.ccaches, uid)
    consequence = (
        f"programs of {_some([format_user(each) for each in lost])} find no tickets"
        if lost
        else "the ccache whose TGT ends last is used in its place"
    )
    switch = f"pykcmctl switch --uid {uid} {shell_quote(format_ccache(wanted))}" if wanted else ""
    return warning(
        f"the chosen default does not exist: {named}; {consequence}",
        f"pykcmctl list --user {_named_user(uid)}",
        *filter(None, [switch]),
    )


def _longest_valid(ccaches: Sequence[dict[str, Any]], uid: int) -> bytes | None:
    mine = [row for row in ccaches if row["uid"] == uid and row["principal"] is not None]
    name: bytes | None = max(mine, key=lambda row: row["expires"] or 0)["name"] if mine else None
    return name


def damage(environment: Environment) -> Result:
    """Check that the secrets of each ccache can be read."""
    listing = _listing(environment)
    return listing if isinstance(listing, Result) else damage_result(environment, listing)


def damage_result(environment: Environment, listing: Listing) -> Result:
    damaged = [format_ccache(row["name"]) for row in listing.ccaches if row["principal"] is None]
    if not damaged:
        return ok(f"{format_count(len(listing.ccaches), 'ccache')} can be read")
    return failed(
        f"cannot be read: {_some(damaged)}; their users need new tickets",
        "journalctl -u pykcm.service | grep 'cannot be read'"
        if environment.has_systemd
        else "# look for 'cannot be read' in the log of pykcmd",
        *[f"pykcmctl destroy --yes {shell_quote(name)}" for name in damaged[:_MOST_NAMED]],
    )


def clock(environment: Environment) -> Result:
    """Check this machine's clock against those of the KDCs, as clients noted them at their last kinit."""
    listing = _listing(environment)
    return listing if isinstance(listing, Result) else clock_result(listing, time.time())


def clock_result(listing: Listing, now: float) -> Result:
    # Each user counts once, with the tickets that end last: a user can store any offset.
    latest: dict[int, dict[str, Any]] = {}
    for row in listing.ccaches:
        if row["tgt_expires"] is None or row["tgt_expires"] <= now:
            continue
        other = latest.get(row["uid"])
        if other is None or other["tgt_expires"] < row["tgt_expires"]:
            latest[row["uid"]] = row
    if not latest:
        return ok("no valid ticket tells the time of a KDC")
    offsets = sorted(row.get("kdc_offset", 0) for row in latest.values())
    # The median; of the two in the middle, the smaller one.
    offset: int = min(offsets[(len(offsets) - 1) // 2], offsets[len(offsets) // 2], key=abs)
    users = format_count(len(latest), "user")
    if abs(offset) < _LARGE_SKEW:
        return ok(f"within {_LARGE_SKEW} s of the KDC's, by the tickets of {users}")
    text = (
        f"this machine's clock is {abs(offset)} s {'behind' if offset > 0 else 'ahead of'} the KDC's, by the "
        f"tickets of {users}"
    )
    commands = ("timedatectl status", "timedatectl set-ntp true")
    if abs(offset) < _REFUSED_SKEW:
        return warning(text, *commands)
    return failed(f"{text}: Kerberos services refuse a difference of more than 5 minutes", *commands)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


CHECKS = (
    Check("quotas", quotas),
    Check("accounts", accounts),
    Check("default ccaches", defaults),
    Check("damaged ccaches", damage),
    Check("clock", clock),
)
