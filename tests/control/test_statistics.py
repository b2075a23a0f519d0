"""The statistics as one map, as OpenMetrics text, and as pykcmctl's tables."""

import asyncio
import errno
import math
import time
from typing import Any

import pytest

from pykcm import __version__
from pykcm.ccaches.quotas import Quotas
from pykcm.cli.statistics import (
    DurationType,
    _for_json,
    _operation_rows,
    _other_rows,
    quantile,
    since,
)
from pykcm.control.openmetrics import openmetrics
from pykcm.protocol.codes import Code
from pykcm.store.interface import StoreError
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE, BOB, TGS, refused, ticket
from tests.control.controlling import Controlling
from tests.control.parsing import parsed
from tests.server.asking import Server


def stats(control: Controlling) -> dict[str, Any]:
    """The statistics as a client receives them."""
    (answer,) = control.ask("stats")
    return dict(answer)


def busy(server: Server) -> None:
    """Make requests that change most counters."""
    alice, bob = server.ask_as(1000), server.ask_as(2000)
    alice.initialize(b"1000:old", ALICE)
    alice.store(b"1000:old", ticket(TGS, ends=1400).blob)
    alice.initialize(b"1000", ALICE)
    for _ in range(5):
        alice.get_principal(b"1000")
    with refused(Code.FCC_NOFILE):
        bob.get_principal(b"2000")
    bob.answer(999)
    with refused(Code.FCC_PERM):
        bob.initialize(b"1000", BOB)


@pytest.fixture
def server(runner: asyncio.Runner) -> Server:
    """A server whose users may have one ccache each."""
    return Server(runner, MemoryStore(), quotas=Quotas(max_uid_ccaches=1))


def test_stats_counts_by_name(server: Server, control: Controlling) -> None:
    """Counters have their names, and histograms have no empty buckets at the end."""
    begun = time.monotonic()
    busy(server)
    elapsed = time.monotonic() - begun
    answer = stats(control)
    assert answer["version"] == __version__
    assert answer["started"] <= answer["time"]
    assert (answer["failing"], answer["ccaches"]) == ("", 1)
    assert {name: each["count"] for name, each in answer["operations"].items()} == {
        "INITIALIZE": 3,
        "STORE": 1,
        "GET_PRINCIPAL": 6,
    }
    principal = answer["operations"]["GET_PRINCIPAL"]
    assert principal["errors"] == {"FCC_NOFILE": 1}
    assert sum(principal["buckets"]) == 6
    assert principal["buckets"][-1] > 0
    assert 0 < principal["longest"] <= principal["seconds"] <= elapsed
    assert answer["unknown_operations"] == 1
    assert (answer["commits"]["count"], answer["commits"]["operations"]) == (3, 3)
    assert answer["commits"]["batches"] == [0, 3]
    assert (answer["cache"]["misses"], answer["cache"]["collections"]) == (2, 2)
    assert answer["removed_ccaches"] == {"max_uid_ccaches": 1}
    assert answer["near_quotas"] == {"max_uid_ccaches": 1}
    assert (answer["watchers"], answer["tracers"]) == (0, 0)


def test_reads_of_administrators_do_not_count_as_cache_hits(server: Server, control: Controlling) -> None:
    """The cache's counters count only the requests of KCM clients."""
    busy(server)
    before = stats(control)["cache"]
    server.collection_cache.drop(1000)
    for request in ("list", "export"):
        control.ask(request)
    after = stats(control)["cache"]
    assert (after["hits"], after["misses"]) == (before["hits"], before["misses"])


@pytest.mark.parametrize("step", ["reading", "committing"])
def test_stats_names_the_store_while_it_fails(
    server: Server, control: Controlling, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It fails while it cannot be read, and from a failed commit to the next one that works."""
    alice = server.ask_as(1000)
    alice.initialize(b"1000", ALICE)
    error = StoreError("input/output error", errno.EIO)

    async def fail() -> int:
        raise error

    if step == "reading":
        monkeypatch.setattr(server.store, "count_ccaches", fail)
    else:
        server.store.refusal = lambda _: error
        with refused(errno.EIO):
            alice.destroy(b"1000")
    answer = stats(control)
    assert answer["failing"] == "store"
    assert answer["ccaches"] == (None if step == "reading" else 1)
    monkeypatch.undo()
    server.store.refusal = lambda _: None
    alice.destroy(b"1000")
    assert stats(control)["failing"] == ""


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The values by sample name and labels, as prometheus-client reads them."""
    by_name: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parsed(text):
        assert family.documentation
        for sample in family.samples:
            assert sample.name.startswith("pykcm_")
            by_name.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return by_name


def test_prometheus_parses_the_text(server: Server, control: Controlling) -> None:
    """Prometheus's own parser reads the numbers of `stats`."""
    busy(server)
    answer = stats(control)
    read = samples(openmetrics(answer))
    name = "pykcm_request_duration_seconds"
    assert read[f"{name}_count"] == {
        (("operation", operation),): each["count"] for operation, each in answer["operations"].items()
    }
    assert read[f"{name}_sum"][("operation", "STORE"),] == pytest.approx(
        answer["operations"]["STORE"]["seconds"]
    )
    assert read[f"{name}_bucket"][("le", "+Inf"), ("operation", "GET_PRINCIPAL")] == 6
    assert read["pykcm_request_errors_total"] == {
        (("code", "FCC_NOFILE"), ("operation", "GET_PRINCIPAL")): 1,
        (("code", "FCC_PERM"), ("operation", "INITIALIZE")): 1,
    }
    assert read["pykcm_unknown_requests_total"] == {(): 1}
    assert read["pykcm_commit_duration_seconds_count"] == {(): 3}
    assert read["pykcm_commit_operations_bucket"][("le", "1.0"),] == 3
    assert read["pykcm_commit_operations_sum"] == {(): 3}
    assert read["pykcm_ccaches"] == {(): 1}
    assert read["pykcm_healthy"] == {(): 1}
    assert read["pykcm_build_info"] == {(("version", __version__),): 1}
    assert read["pykcm_ccaches_removed_total"] == {(("reason", "max_uid_ccaches"),): 1}
    assert read["pykcm_users_near_quota"] == {(("quota", "max_uid_ccaches"),): 1}
    assert read["pykcm_requests_waiting"] == {(("queue", "lane"),): 0, (("queue", "turn"),): 0}


def test_the_text_of_a_fresh_daemon_is_valid(server: Server, control: Controlling) -> None:
    """The text is valid with a number of ccaches, and without it if the store cannot be read."""
    answer = stats(control)
    assert samples(openmetrics(answer))["pykcm_ccaches"] == {(): 0}
    read = samples(openmetrics(answer | {"failing": "store", "ccaches": None}))
    assert read["pykcm_healthy"] == {(): 0}
    assert "pykcm_ccaches" not in read


def test_no_label_names_a_user(server: Server, control: Controlling) -> None:
    """No label is a UID, a user, a ccache or a principal."""
    busy(server)
    text = openmetrics(stats(control))
    for name in ("1000", "2000", "alice", "bob"):
        # Label values are in quotes. Other numbers may have the same digits.
        assert not [each for each in text.split('"')[1::2] if name in each]


def test_buckets_are_cumulative(server: Server, control: Controlling) -> None:
    """Each bucket includes those below it: a duration of 1.5 ms is below 2.097152 ms."""
    answer = stats(control)
    buckets = [0] * 22
    buckets[5], buckets[15], buckets[21] = 1, 2, 4
    commits = answer["commits"] | {"count": 7, "seconds": 0.007, "buckets": buckets, "batches": [0, 7]}
    read = samples(openmetrics(answer | {"commits": commits}))["pykcm_commit_duration_seconds_bucket"]
    by_edge = {float(labels[0][1]): value for labels, value in read.items()}
    assert by_edge[2.048e-06] == 1
    assert by_edge[3.2768e-05] == 3
    assert by_edge[0.001048576] == 3
    assert by_edge[0.002097152] == by_edge[math.inf] == 7


@pytest.mark.parametrize(
    ("counts", "share", "low", "high"),
    [
        ({11: 100}, 0.5, 1.4e-06, 1.6e-06),
        ({11: 100}, 0.99, 2.0e-06, 2.05e-06),
        ({11: 98, 21: 2}, 0.5, 1.0e-06, 2.1e-06),
        ({11: 98, 21: 2}, 0.99, 1.0e-03, 2.1e-03),
        ({}, 0.5, 0.0, 0.0),
        ({0: 1}, 0.5, 0.0, 1e-9),
    ],
)
def test_a_quantile_is_in_its_bucket(counts: dict[int, int], share: float, low: float, high: float) -> None:
    """It is not longer than the longest duration."""
    buckets = [counts.get(number, 0) for number in range(64)]
    assert low <= quantile({"buckets": buckets}, share) <= high
    assert quantile({"buckets": buckets, "longest": low}, share) <= low


def test_since_subtracts_counters_and_keeps_states() -> None:
    """A counter that did not exist before counts from 0."""
    earlier = {
        "version": "1",
        "time": 10.0,
        "ccaches": 5,
        "operations": {"STORE": {"count": 3, "errors": {"EIO": 1}, "buckets": [0, 3], "longest": 9.0}},
        "queues": {"lanes": 3},
        "near_quotas": {"max_uid_size": 3},
        "cache": {"hits": 5, "size": 100},
    }
    now = {
        "version": "1",
        "time": 12.0,
        "ccaches": 7,
        "operations": {
            "STORE": {"count": 5, "errors": {"EIO": 1, "EDQUOT": 1}, "buckets": [0, 4, 1], "longest": 9.0},
            "NOOP": {"count": 1, "errors": {}, "buckets": [1], "longest": 1.0},
        },
        "queues": {"lanes": 1},
        "near_quotas": {"max_uid_size": 1},
        "cache": {"hits": 9, "size": 50},
    }
    assert since(now, earlier) == {
        "version": "1",
        "time": 12.0,
        "ccaches": 7,
        "operations": {
            "STORE": {"count": 2, "errors": {"EIO": 0, "EDQUOT": 1}, "buckets": [0, 1, 1]},
            "NOOP": {"count": 1, "errors": {}, "buckets": [1]},
        },
        "queues": {"lanes": 1},
        "near_quotas": {"max_uid_size": 1},
        "cache": {"hits": 4, "size": 50},
    }


def test_tables_have_rates(server: Server, control: Controlling) -> None:
    """The most frequent operation is first. Each other number has a row."""
    busy(server)
    answer = stats(control)
    first, *_ = _operation_rows(answer, 2.0)
    assert first[:5] == ["GET_PRINCIPAL", "6", "1", "0", "3.0"]
    others = {row[0]: row[1:] for row in _other_rows(answer, 2.0)}
    assert others["commits"] == ["3 (1.5 per second)"]
    assert others["operations per commit"] == ["1.00"]
    assert others["ccaches removed: max_uid_ccaches"] == ["1"]
    assert others["healthy"] == ["yes"]
    made = _for_json(answer, 2.0)
    assert made["interval"] == 2.0
    assert made["operations"]["GET_PRINCIPAL"]["rate"] == 3.0
    longest = answer["operations"]["GET_PRINCIPAL"]["longest"]
    assert 0 < made["operations"]["GET_PRINCIPAL"]["p50"] <= longest


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("2", 2.0), ("500ms", 0.5), ("1m", 60.0), ("0.5", 0.5)]
)
def test_interval_takes_durations(text: str, seconds: float) -> None:
    """A number has a unit, or is in seconds."""
    assert DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "2d", "nan", "1e3", "٢s"])
def test_interval_refuses_other_text(text: str) -> None:
    """The usage error comes before the daemon is asked."""
    import click

    with pytest.raises(click.BadParameter):
        DurationType().convert(text, None, None)
