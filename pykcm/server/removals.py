"""The log of what went without anybody's asking: one line for each ccache."""

import logging
from collections.abc import Iterable

from pykcm.ccaches.changes import Removal
from pykcm.protocol.text import shown

log = logging.getLogger(__name__)


def log_removals(uid: int, removals: Iterable[Removal]) -> None:
    """Tell of what has gone from the UID's collection, when it is durable."""
    for removal in removals:
        ccache = shown(removal.ccache)
        number = removal.service_tickets
        if number is None:
            what = f"expired ccache {ccache} removed"
        else:
            what = f"{number} of the oldest service tickets removed from ccache {ccache}"
        log.info(
            "UID %d: %s (%s)",
            uid,
            what,
            removal.reason,
            extra={"KCM_UID": uid, "KCM_CCACHE": ccache, "KCM_REASON": removal.reason},
        )
