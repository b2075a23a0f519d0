"""The benchmark's goals: their limits, and whether the measured figures meet them."""

from dataclasses import dataclass
from statistics import median
from typing import Literal

from bench.workloads import (
    APPEND,
    ECHO,
    HEIMDAL,
    OVERWRITE,
    PYKCM,
    PYKCM_EMPTY,
    PYKCM_MANY,
    PYKCM_NORMAL,
    SSSD,
    Figures,
    Workload,
)

# By column of the table: the servers whose figures it shows.
COLUMNS = {
    "pykcm": (PYKCM, PYKCM_NORMAL, PYKCM_EMPTY, PYKCM_MANY),
    "Heimdal": (HEIMDAL,),
    "sssd": (SSSD,),
    "bare": (ECHO, APPEND, OVERWRITE),
}

Bound = Literal["at most", "at least", "within"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit on the ratio of pykcm's figure in `workload` to the figure in `column`.

    The second figure belongs to the same workload, or to `other`. Without a column, the limit applies to
    pykcm's figure itself.
    """

    workload: str
    bound: Bound
    limit: float
    column: str | None = None
    other: str | None = None

    @property
    def text(self) -> str:
        limit = f"1/{1 / self.limit:.0f}" if self.limit in _FRACTIONS else f"{self.limit:g}"
        if self.bound == "within":
            return f"1 ± {self.limit:g} x {_SHORT[self.other or '']}"
        if self.column is None:
            return f"{self.bound} {limit}"
        return f"{self.bound} {limit} x {_SHORT[self.other] if self.other else self.column}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The ratio of the medians, and the smallest and largest ratio of a round.

    The ratio is None if a figure is missing.
    """

    goal: Goal
    ratio: float | None
    spread: tuple[float, float] = (0.0, 0.0)

    @property
    def is_met(self) -> bool | None:
        match self.ratio, self.goal.bound:
            case None, _:
                return None
            case ratio, "at most":
                return ratio <= self.goal.limit
            case ratio, "at least":
                return ratio >= self.goal.limit
            case ratio, _:
                return abs(ratio - 1) <= self.goal.limit


_FRACTIONS = {1 / 20, 1 / 15, 1 / 8, 1 / 9}
_SHORT = {
    "retrieve-20": "retrieve in 20",
    "store": "one store",
    "storeat-50": "store at 50",
    "uids-1": "1 UID",
    "start-0": "0 ccaches",
}

GOALS = [
    Goal("ping", "at most", 1.25, "Heimdal"),
    Goal("ping", "at most", 1 / 20, "sssd"),
    Goal("list-20", "at most", 0.28, "Heimdal"),
    Goal("list-20", "at most", 1 / 15, "sssd"),
    Goal("list-200", "at most", 0.08, "Heimdal"),
    Goal("retrieve-20", "at most", 1.2, "Heimdal"),
    Goal("retrieve-5000", "within", 0.2, "pykcm", "retrieve-20"),
    Goal("store", "at most", 1.5, "bare"),
    Goal("store", "at most", 1 / 8, "sssd"),
    Goal("store-normal", "at most", 4.5, "Heimdal"),
    Goal("replace-10", "at most", 1.5, "pykcm", "store"),
    Goal("storeat-5000", "at most", 1.2, "pykcm", "storeat-50"),
    Goal("kinit", "at most", 1 / 9, "sssd"),
    Goal("connections-16", "at least", 0.8, "Heimdal"),
    Goal("connections-16", "at least", 100, "sssd"),
    Goal("uids-16", "at least", 4, "pykcm", "uids-1"),
    Goal("uid-connections-16", "at least", 3, "pykcm", "uids-1"),
    Goal("start-0", "at most", 90),
    Goal("start-many", "at most", 90),
    Goal("start-many", "within", 0.2, "pykcm", "start-0"),
    Goal("memory-idle", "at most", 32),
    Goal("memory-stored", "at most", 2.2),
    Goal("memory-read", "at most", 2.2),
    Goal("database", "at most", 1.6),
]


def judge(goal: Goal, figures: Figures) -> Verdict:
    """Compare the measured figures with one goal."""
    ours = figures.of(goal.workload, *COLUMNS["pykcm"])
    if goal.column is None:
        return Verdict(goal, median(ours), (min(ours), max(ours))) if ours else Verdict(goal, None)
    others = figures.of(goal.other or goal.workload, *COLUMNS[goal.column])
    if not ours or not others:
        return Verdict(goal, None)
    ratios = [a / b for a, b in zip(ours, others, strict=False)]
    return Verdict(goal, median(ours) / median(others), (min(ratios), max(ratios)))


def table(rows: list[Workload], figures: Figures) -> tuple[list[str], list[list[str]]]:
    """Return the header, and one line for each goal and for each workload without a goal."""
    header = ["workload", *COLUMNS, "ratio", "rounds", "goal", "met"]
    lines = []
    for row in rows:
        measured = [figure(row, figures.of(row.key, *servers)) for servers in COLUMNS.values()]
        head = [row.title, *measured]
        verdicts = [_verdict(judge(goal, figures)) for goal in GOALS if goal.workload == row.key]
        for verdict in verdicts or [[""] * 4]:
            lines.append([*head, *verdict])
            head = ["″", *([""] * len(COLUMNS))]
    return header, lines


def figure(row: Workload, values: list[float]) -> str:
    """Format the median of the values with the workload's unit."""
    if not values:
        return "-"
    value = median(values)
    digits = 0 if value >= 1000 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {row.unit}"


def _verdict(verdict: Verdict) -> list[str]:
    if verdict.ratio is None:
        return ["-", "", verdict.goal.text, "not measured"]
    low, high = verdict.spread
    ratio = "" if verdict.goal.column is None else _significant(verdict.ratio)
    spread = "" if low == high else f"{_significant(low)}-{_significant(high)}"
    return [ratio, spread, verdict.goal.text, "yes" if verdict.is_met else "**no**"]


def _significant(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:.{digits}f}"
