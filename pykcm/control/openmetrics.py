"""The numbers of `stats` as OpenMetrics text (version 1.0), for Prometheus and similar programs.

No label names a user: there may be many users, and their activity is private.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Bucket boundaries are powers of two of nanoseconds, from 2 us to 17 s.
_FIRST, _LAST = 11, 34
_LARGEST_BATCH = 12
_EDGES = [(number, repr(2**number / 1e9)) for number in range(_FIRST, _LAST + 1)]

Labels = Mapping[str, str]
_NO_LABELS: Labels = {}


def openmetrics(stats: Mapping[str, Any]) -> str:
    """Return the text with its end mark."""
    return "\n".join([*_families(stats), "# EOF", ""])


def _families(stats: Mapping[str, Any]) -> Iterator[str]:
    yield from _head("pykcm_build", "info", "The version of the daemon.")
    yield _sample("pykcm_build_info", {"version": stats["version"]}, 1)
    yield from _gauge("pykcm_start_time_seconds", "When the daemon started.", stats["started"], "seconds")
    yield from _gauge("pykcm_healthy", "1 when all parts work.", 0 if stats["failing"] else 1)
    if stats["ccaches"] is not None:
        yield from _gauge("pykcm_ccaches", "Ccaches in the store.", stats["ccaches"])
    yield from _requests(stats)
    yield from _commits(stats["commits"])
    if "store" in stats:
        yield from _store(stats["store"])
    yield from _cache(stats["cache"])
    yield from _connections(stats["connections"])
    yield from _queues(stats["queues"])
    yield from _near_quotas(stats["near_quotas"])
    if stats["renewals"] is not None:
        yield from _renewals(stats["renewals"])
    for name, what in (("ccaches", "Ccaches"), ("tickets", "Service tickets")):
        removed = [({"reason": reason}, count) for reason, count in stats[f"removed_{name}"].items()]
        help_ = f"{what} removed because they had expired or to make room, by the option that required it."
        yield from _counters(f"pykcm_{name}_removed", help_, removed)


def _requests(stats: Mapping[str, Any]) -> Iterator[str]:
    operations = stats["operations"]
    name = "pykcm_request_duration_seconds"
    yield from _head(
        name,
        "histogram",
        "Time from the start of a request's execution to its reply, by operation.",
        "seconds",
    )
    for operation, each in operations.items():
        yield from _duration_samples(name, {"operation": operation}, each)
    errors = [
        ({"operation": operation, "code": code}, count)
        for operation, each in operations.items()
        for code, count in each["errors"].items()
    ]
    yield from _counters("pykcm_request_errors", "Replies with a code other than 0.", errors)
    unknown = stats["unknown_operations"]
    yield from _counter("pykcm_unknown_requests", "Requests for unknown operations.", unknown)
    yield from _counter("pykcm_store_errors", "Requests that failed in the store.", stats["store_errors"])


def _commits(commits: Mapping[str, Any]) -> Iterator[str]:
    name = "pykcm_commit_duration_seconds"
    yield from _head(name, "histogram", "Duration of commits to the store.", "seconds")
    yield from _duration_samples(name, _NO_LABELS, commits)
    name = "pykcm_commit_operations"
    yield from _head(name, "histogram", "Operations that one commit made durable.")
    # Fewer than 2**n is at most 2**n - 1.
    edges = [(number, f"{2**number - 1}.0") for number in range(1, _LARGEST_BATCH)]
    yield from _histogram_samples(name, _NO_LABELS, edges, commits["batches"], commits["operations"])
    yield from _counter("pykcm_commit_failures", "Commits that failed.", commits["failures"])


def _store(store: Mapping[str, Any]) -> Iterator[str]:
    """The metrics of a store that hosts share."""
    is_up = 1 if store["away_since"] is None else 0
    yield from _gauge("pykcm_store_up", "1 when the shared store answers.", is_up)
    name, help_ = "pykcm_store_last_seen_seconds", "When the shared store last answered."
    yield from _gauge(name, help_, store["last_seen"], "seconds")
    open_ = store["connections_open"]
    yield from _gauge("pykcm_store_connections", "Open connections to the shared store.", open_)
    for key, help_ in (
        ("absences", "How often the shared store went away."),
        ("connections_made", "Connections made to the shared store."),
        ("calls", "Statements sent to the shared store, or pipelines of them."),
        ("look_ups", "Questions for the newest versions of collections."),
        ("conflicts", "Commits that another host's commit came before."),
        ("timeouts", "Calls of the shared store without an answer in time."),
        ("lost_answers", "Calls of the shared store whose answer was lost."),
    ):
        yield from _counter(f"pykcm_store_{key}", help_, store[key])
    found = [({"outcome": outcome}, number) for outcome, number in store["found_out"].items()]
    help_ = "Commits whose answer was lost, by what was found out about them."
    yield from _counters("pykcm_store_found_out", help_, found)


def _cache(cache: Mapping[str, Any]) -> Iterator[str]:
    yield from _counter("pykcm_cache_hits", "Requests whose collection was in memory.", cache["hits"])
    yield from _counter(
        "pykcm_cache_misses", "Requests whose collection was read from the store.", cache["misses"]
    )
    yield from _counter(
        "pykcm_cache_let_go", "Collections removed from memory to make room for others.", cache["let_go"]
    )
    yield from _gauge("pykcm_cache_collections", "Collections in memory.", cache["collections"])
    yield from _gauge("pykcm_cache_size_bytes", "Memory used by these collections.", cache["size"], "bytes")


def _connections(connections: Mapping[str, Any]) -> Iterator[str]:
    yield from _gauge("pykcm_connections", "Open connections.", connections["open"])
    yield from _counter("pykcm_connections_accepted", "Connections accepted.", connections["accepted"])
    yield from _counter(
        "pykcm_connections_evicted", "Connections closed to make room for others.", connections["evicted"]
    )
    refused = [
        ({"reason": "limit"}, connections["refused"]),
        ({"reason": "identity"}, connections["unidentified"]),
    ]
    yield from _counters("pykcm_connections_refused", "Connections refused.", refused)
    broken = [({"limit": limit}, count) for limit, count in connections["broken_off"].items()]
    help_ = "Connections closed because the client exceeded a limit or violated the protocol."
    yield from _counters("pykcm_connections_broken_off", help_, broken)


def _queues(queues: Mapping[str, Any]) -> Iterator[str]:
    yield from _gauge("pykcm_lanes_occupied", "Users with an operation in progress.", queues["lanes"])
    yield from _head("pykcm_requests_waiting", "gauge", "Waiting requests.")
    for queue in ("lane", "turn"):
        yield _sample("pykcm_requests_waiting", {"queue": queue}, queues[f"waiting_for_{queue}"])
    yield from _gauge(
        "pykcm_waiting_request_bytes", "Bytes of large requests that wait.", queues["request_bytes"], "bytes"
    )
    yield from _gauge(
        "pykcm_untaken_reply_bytes",
        "Bytes of replies that clients have not read.",
        queues["reply_bytes"],
        "bytes",
    )


def _near_quotas(numbers: Mapping[str, int]) -> Iterator[str]:
    help_ = "Users who use 80 % or more of a quota, of those whose ccaches were read since the start."
    yield from _head("pykcm_users_near_quota", "gauge", help_)
    for quota, number in numbers.items():
        yield _sample("pykcm_users_near_quota", {"quota": quota}, number)


def _renewals(renewals: Mapping[str, Any]) -> Iterator[str]:
    """The metrics of renewals, once pykcm-renew has asked for TGTs."""
    yield from _gauge("pykcm_renewal_client", "1 while pykcm-renew is connected.", int(renewals["client"]))
    yield from _gauge("pykcm_renewable_tgts", "TGTs that can be renewed.", renewals["known"])
    yield from _gauge("pykcm_renewals_due", "TGTs that are due and wait for their turn.", renewals["due"])
    yield from _gauge("pykcm_renewals_in_progress", "Renewals in progress.", renewals["trying"])
    results = [({"result": "renewed"}, renewals["renewed"]), ({"result": "changed"}, renewals["unchanged"])]
    help_ = "New TGTs, by what became of them; changed: the ccache no longer held the old one."
    yield from _counters("pykcm_renewals", help_, results)
    failures = [({"reason": reason}, count) for reason, count in renewals["failures"].items()]
    yield from _counters("pykcm_renewal_failures", "Failed attempts to renew a TGT, by reason.", failures)


# Format


def _head(name: str, kind: str, help_: str, unit: str = "") -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {help_}"


def _gauge(name: str, help_: str, value: float, unit: str = "") -> Iterator[str]:
    yield from _head(name, "gauge", help_, unit)
    yield _sample(name, _NO_LABELS, value)


def _counter(name: str, help_: str, value: int) -> Iterator[str]:
    yield from _counters(name, help_, [(_NO_LABELS, value)])


def _counters(name: str, help_: str, values: Iterable[tuple[Labels, int]]) -> Iterator[str]:
    yield from _head(name, "counter", help_)
    for labels, value in values:
        yield _sample(f"{name}_total", labels, value)


def _duration_samples(name: str, labels: Labels, durations: Mapping[str, Any]) -> Iterator[str]:
    yield from _histogram_samples(name, labels, _EDGES, durations["buckets"], durations["seconds"])


def _histogram_samples(
    name: str, labels: Labels, edges: Iterable[tuple[int, str]], buckets: list[int], total: float
) -> Iterator[str]:
    """`edges`: the number of a bucket, and its upper boundary as text."""
    # There are hundreds of these samples: the common labels are formatted once.
    begin = f"{name}_bucket{{{_format_labels(labels)}{',' if labels else ''}le="
    totals = [0, *accumulate(buckets)]
    count = totals[-1]
    for number, edge in edges:
        yield f'{begin}"{edge}"}} {totals[number + 1] if number + 1 < len(totals) else count}'
    yield f'{begin}"+Inf"}} {count}'
    yield _sample(f"{name}_count", labels, count)
    yield _sample(f"{name}_sum", labels, total)


def _sample(name: str, labels: Labels, value: float) -> str:
    formatted = _format_labels(labels)
    return f"{name}{{{formatted}}} {value!r}" if formatted else f"{name} {value!r}"


def _format_labels(labels: Labels) -> str:
    return ",".join([f'{key}="{_escape_value(text)}"' for key, text in labels.items()])


def _escape_value(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
