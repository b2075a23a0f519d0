"""The rows of `pykcmctl stats`."""

from typing import Any

import pytest

from pykcm.cli.statistics import _other_rows

from .scraping import Daemon

STORE: dict[str, Any] = {
    "name": "postgresql db1/pykcm",
    "away_since": None,
    "reason": "",
    "last_seen": 997.0,
    "absences": 2,
    "connections_open": 3,
    "connections_made": 14,
    "calls": 100,
    "look_ups": 40,
    "conflicts": 5,
    "timeouts": 6,
    "lost_answers": 7,
    "found_out": {"made": 4, "not_made": 1},
}


def rows(daemon: Daemon, **store: Any) -> dict[str, str]:
    stats = {**daemon.stats, "time": 1000.0, "store": STORE | store}
    # Each row has a name and one value.
    return {row[0]: value for row in _other_rows(stats, 10.0) for [value] in [row[1:]]}


def test_state_of_a_shared_store_has_one_value_in_each_row(daemon: Daemon) -> None:
    """Second numbers follow in brackets, as those of the other rows."""
    found = rows(daemon)
    assert found["shared store"] == "postgresql db1/pykcm: there"
    assert found["shared store last seen"] == "3 s ago"
    assert found["connections to the shared store"] == "3 (14 made)"
    assert found["statements to the shared store"] == "100 (40 for versions)"
    assert found["answers of the shared store that were lost"] == "7 (4 commits found to be made, 1 not)"


@pytest.mark.parametrize(("since", "words"), [(990.0, "10 s"), (700.0, "5 min"), (-9000.0, "2 h")])
def test_absence_of_a_shared_store_is_in_words(daemon: Daemon, since: float, words: str) -> None:
    """The reason follows."""
    found = rows(daemon, away_since=since, reason="connection refused")
    assert found["shared store"] == f"postgresql db1/pykcm: away for {words}: connection refused"


def test_embedded_store_has_no_such_rows(daemon: Daemon) -> None:
    assert not any("shared store" in name for name, _ in _other_rows(daemon.stats, 10.0))
