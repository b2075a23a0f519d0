"""The request `stats`: the daemon's counters and state as one map."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from pykcm import __version__
from pykcm.control.administration import Administration
from pykcm.control.calls import Call
from pykcm.engine.committer import Durations
from pykcm.protocol.codes import name_of
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import StoreError

_SECONDS = 1e-9

# In seconds: a store that is away must not keep people from the state of the daemon.
_PATIENCE = 1.0


class StatsArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request has no arguments."""


async def stats(call: Call) -> AsyncIterator[dict[str, Any]]:
    yield await gather(call.administration)


async def gather(administration: Administration) -> dict[str, Any]:
    """Return all counts since the start. docs/control-protocol.md describes the map."""
    engine, connections = administration.engine, administration.connections
    counted, committer, collection_cache = (
        administration.dispatcher.statistics,
        engine.committer,
        engine.collection_cache,
    )
    ccaches = await _count_ccaches(administration)
    now = time.time()
    sharing = administration.store.sharing
    return ({} if sharing is None else {"store": sharing.statistics()}) | {
        "version": __version__,
        "time": now,
        "started": counted.started,
        "failing": _failing(administration, ccaches),
        "ccaches": ccaches,
        "operations": {
            Opcode(opcode).name: _durations(each) | {"errors": _by_name(each.errors)}
            for opcode, each in counted.operations.items()
            if any(each.buckets)
        },
        "unknown_operations": counted.unknown_operations,
        "store_errors": counted.store_errors,
        "commits": _durations(committer.commits)
        | {
            "operations": committer.operations,
            "batches": _trimmed(committer.batches),
            "failures": committer.failures,
        },
        "cache": {
            "hits": collection_cache.hits,
            "misses": collection_cache.misses,
            "let_go": collection_cache.let_go,
            "collections": len(collection_cache),
            "size": collection_cache.footprint,
        },
        "connections": {
            "open": connections.open,
            "accepted": connections.accepted,
            "evicted": connections.evicted,
            "refused": connections.refused,
            "unidentified": connections.unidentified,
            "broken_off": dict(connections.broken_off),
        },
        "queues": {
            "lanes": engine.uid_queues.occupied,
            "waiting_for_lane": engine.uid_queues.waiting,
            "waiting_for_turn": administration.fair_queue.waiting,
            "request_bytes": connections.request_memory,
            "reply_bytes": connections.reply_memory,
        },
        "near_quotas": dict(collection_cache.users_near_quotas.numbers),
        "renewals": None
        if administration.renewals.current is None
        else administration.renewals.current.statistics(),
        "removed_ccaches": dict(engine.removals.ccaches),
        "removed_tickets": dict(engine.removals.tickets),
        "watchers": sum(watcher.is_client for watcher in engine.watchers),
        "tracers": len(administration.dispatcher.tracers),
    }


def _failing(administration: Administration, ccaches: int | None) -> str:
    """Return the name of the part that does not work, or "" if all parts work."""
    return "store" if ccaches is None or administration.engine.committer.is_failing else ""


async def _count_ccaches(administration: Administration) -> int | None:
    """Return None if the store cannot be read now."""
    try:
        sharing = administration.store.sharing
        async with asyncio.timeout(_PATIENCE):
            return await (
                administration.store.count_ccaches() if sharing is None else sharing.count_recently()
            )
    except (StoreError, TimeoutError):
        return None


def _durations(durations: Durations) -> dict[str, Any]:
    return {
        "count": sum(durations.buckets),
        "seconds": durations.total * _SECONDS,
        "longest": durations.longest * _SECONDS,
        "buckets": _trimmed(durations.buckets),
    }


def _trimmed(buckets: list[int]) -> list[int]:
    """Return the buckets without the empty ones at the end."""
    last = max((number for number, count in enumerate(buckets) if count), default=-1)
    return buckets[: last + 1]


def _by_name(errors: Mapping[int, int]) -> dict[str, int]:
    return {name_of(code): count for code, count in errors.items()}
