"""Renewals in the statistics, and which users may make their requests."""

import asyncio
from typing import Any

import pytest

from pykcm.cli.statistics import _other_rows, since
from pykcm.config import Config
from pykcm.control.openmetrics import openmetrics
from pykcm.control.requests import REQUESTS, requests_of
from pykcm.engine.renewal_attempts import Failure
from tests.control.controlling import Controlling
from tests.control.parsing import parsed
from tests.engine.renewing import Client, tgt
from tests.server.asking import Server
from tests.storing import EMBEDDED_STORES


@pytest.fixture
def answer(server: Server, control: Controlling) -> dict[str, Any]:
    """Statistics after a renewal, a result that came too late, and a failure."""
    server.clock.now = 1060
    for name in (b"1000", b"1000:b", b"1000:c"):
        server.ask_as(1000).replace(name, 0, tgt().client, [tgt(end=1100).blob])
    renewals = control.administration.renewals.start()
    renewals._clock = server.clock

    async def renew() -> None:
        async with Client(renewals) as client:
            async with asyncio.timeout(60):
                while len(client.offers) < 3:  # noqa: ASYNC110 - any condition
                    await asyncio.sleep(0.001)
            one, two, three = client.offers
            new = tgt(1060, 1160).blob
            assert (await renewals.hand_back(one.id, new)).result == "renewed"
            await server.change(1000, lambda each: each.destroy(two.ccache))
            assert (await renewals.hand_back(two.id, new)).result == "changed"
            assert (await renewals.hand_back(three.id, Failure("clock"))).result == "failed"

    server.runner.run(renew())
    (answer,) = control.ask("stats")
    return dict(answer)


@EMBEDDED_STORES
def test_statistics_count_renewals(answer: dict[str, Any]) -> None:
    """The counts of results and failures, and the state of the queue."""
    renewals = answer["renewals"]
    assert renewals.pop("next_due") == pytest.approx(1061, abs=1)
    assert renewals == {
        "client": False,
        "known": 2,
        "due": 0,
        "trying": 0,
        "renewed": 1,
        "unchanged": 1,
        "failures": {"clock": 1},
    }


def test_statistics_without_renewals_say_nothing_of_them(control: Controlling) -> None:
    """As long as nobody has renewed TGTs, there are no numbers."""
    (answer,) = control.ask("stats")
    assert answer["renewals"] is None
    assert "renew" not in openmetrics(answer)
    assert not [row for row in _other_rows(answer, 1.0) if "renew" in row[0]]


@EMBEDDED_STORES
def test_metrics_count_renewals_by_reason(answer: dict[str, Any]) -> None:
    """Prometheus gets a counter for each result and reason."""
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parsed(openmetrics(answer))
        for sample in family.samples
        if "renew" in sample.name
    }
    assert samples == {
        ("pykcm_renewal_client",): 0,
        ("pykcm_renewable_tgts",): 2,
        ("pykcm_renewals_due",): 0,
        ("pykcm_renewals_in_progress",): 0,
        ("pykcm_renewals_total", "renewed"): 1,
        ("pykcm_renewals_total", "changed"): 1,
        ("pykcm_renewal_failures_total", "clock"): 1,
    }


@EMBEDDED_STORES
def test_table_of_statistics_has_renewals(answer: dict[str, Any]) -> None:
    """`pykcmctl stats` shows renewals; with an interval, those within it."""
    rows = {row[0]: row[1] for row in _other_rows(answer, 1.0)}
    assert (rows["TGTs that can be renewed"], rows["TGTs renewed"], rows["failed renewals: clock"]) == (
        "2",
        "1",
        "1",
    )
    rows = {row[0]: row[1] for row in _other_rows(since(answer, answer), 1.0)}
    assert (rows["TGTs that can be renewed"], rows["TGTs renewed"]) == ("2", "0")


def test_renewal_user_is_the_one_of_the_configuration() -> None:
    """The option renewal_user names who may make the two requests; others keep their users."""
    assert {name for name, each in REQUESTS.items() if each.users == ("pykcm-renew",)} == {
        "renewals",
        "renewed",
    }
    requests = requests_of(Config(renewal_user="renewer"))
    assert {name for name, each in requests.items() if each.users == ("renewer",)} == {"renewals", "renewed"}
    assert requests["stats"].users == ("pykcm-metrics",)
