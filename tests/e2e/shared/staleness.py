"""Histories of hosts that may show a state which was the newest a short time ago.

With notifications a host learns of other hosts' changes a moment after they were made. A call that changes
nothing may therefore be answered by a state of up to `most` ago, but never by one from before a change that
this same host has acknowledged. For the checker, such a call begins as much earlier.
"""

from collections import defaultdict
from collections.abc import Iterable

from .collection_operations import CollectionState
from .linearizability import Call
from .recording import Recorded


def with_stale_reads(recorded: Iterable[Recorded], most: int) -> list[Call[CollectionState]]:
    """The calls of one UID, of which those that change nothing begin up to `most` nanoseconds earlier."""
    recorded = sorted(recorded, key=lambda each: each.call.end)
    # By host: the ends of changes that it has acknowledged, ascending.
    changes: dict[int, list[int]] = defaultdict(list)
    for host, call in recorded:
        if call.answer is not None and not call.has_no_effect:
            changes[host].append(call.end)
    calls = []
    for host, call in recorded:
        begin = call.begin
        if call.has_no_effect:
            acknowledged = [end + 1 for end in changes[host] if end < begin]
            begin = max([begin - most, *acknowledged[-1:]])
        calls.append(call._replace(begin=begin))
    return calls
