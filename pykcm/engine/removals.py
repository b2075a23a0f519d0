"""Removals that no client requested: counts, and a limited number of log lines."""

import functools
import logging
from collections import Counter
from collections.abc import Iterable

from pykcm.ccaches.changes import Removal
from pykcm.logs import LimitedLog, User
from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

# For each user, reason and minute.
_MOST_LINES = 30


class RemovalCounts:
    """How many ccaches and service tickets were removed without a request, by the option that required it."""

    def __init__(self) -> None:
        self.ccaches: Counter[str] = Counter()
        self.tickets: Counter[str] = Counter()

    def add(self, removals: Iterable[Removal]) -> None:
        for removal in removals:
            if removal.service_tickets is None:
                self.ccaches[removal.reason] += 1
            else:
                self.tickets[removal.reason] += removal.service_tickets


def log_removals(uid: int, removals: Iterable[Removal]) -> None:
    """Log what was removed from the UID's collection, once it is durable."""
    for removal in removals:
        ccache = escape(removal.ccache)
        number = removal.service_tickets
        if removal.is_empty:
            removed = f"ccache KCM:{ccache}, which has no tickets, removed"
        elif number is None:
            removed = f"expired ccache KCM:{ccache} removed"
        else:
            removed = f"{number} of the oldest service tickets removed from ccache KCM:{ccache}"
        _lines(removal.reason).write(
            logging.INFO,
            uid,
            "%s: %s (%s)",
            User(uid),
            removed,
            removal.reason,
            fields={"KCM_UID": uid, "KCM_CCACHE": ccache, "KCM_REASON": removal.reason},
        )


@functools.cache
def _lines(reason: str) -> LimitedLog:
    """The log lines of one option. Their summary has the option's field as well."""
    return LimitedLog(log, f"ccaches or tickets removed ({reason})", _MOST_LINES, {"KCM_REASON": reason})
