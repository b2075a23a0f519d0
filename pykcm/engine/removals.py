"""Removals that no client requested: a log line for each, as long as there are few, and counts."""

import functools
import logging
from collections import Counter
from collections.abc import Iterable

from pykcm.ccaches.changes import Removal
from pykcm.logs import LimitedLog
from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

# For each user, reason and minute.
_MOST_LINES = 30


class RemovalCounts:
    """How many ccaches and service tickets went without a request, by the option that demanded it."""

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
            what = f"ccache {ccache}, which has no tickets, removed"
        elif number is None:
            what = f"expired ccache {ccache} removed"
        else:
            what = f"{number} of the oldest service tickets removed from ccache {ccache}"
        _lines(removal.reason).write(
            logging.INFO,
            uid,
            "UID %d: %s (%s)",
            uid,
            what,
            removal.reason,
            fields={"KCM_UID": uid, "KCM_CCACHE": ccache, "KCM_REASON": removal.reason},
        )


@functools.cache
def _lines(reason: str) -> LimitedLog:
    """The lines of one option: a search of the journal by it finds the summary as well."""
    return LimitedLog(log, f"ccaches or tickets removed ({reason})", _MOST_LINES, {"KCM_REASON": reason})
