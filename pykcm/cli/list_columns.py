"""The columns of list, its sort orders, and the states of a ccache."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pykcm.cli.names import format_ccache, user_name
from pykcm.cli.output import format_expiry, format_iso, format_size, format_time
from pykcm.cli.tables import Field

Row = dict[str, Any]


class Style(NamedTuple):
    """The format of times: for a pipe, as dates, or in words."""

    is_piped: bool
    has_dates: bool
    now: float

    def time(self, seconds: int | None) -> str:
        if self.is_piped:
            return format_iso(seconds)
        return format_time(seconds) if self.has_dates else format_expiry(seconds, self.now)

    def past_or_end(self, seconds: int | None) -> str:
        """A time that is not an expiry, for which words would be wrong."""
        return format_iso(seconds) if self.is_piped else format_time(seconds)


class _Column(NamedTuple):
    field: Field
    cell: Callable[[Row, Style], str]


COLUMNS = {
    "user": _Column(
        Field("User", floors=(8, 8), importance=3),
        lambda row, _: user_name(row["uid"]) or str(row["uid"]),
    ),
    "uid": _Column(Field("UID", is_number=True), lambda row, _: str(row["uid"])),
    "principal": _Column(
        Field("Principal", floors=(16, 8), importance=2),
        lambda row, _: "-" if row["principal"] is None else row["principal"],
    ),
    "ccache": _Column(Field("Ccache", floors=(14, 12)), lambda row, _: format_ccache(row["name"])),
    "expires": _Column(Field("Expires"), lambda row, style: style.time(row["expires"])),
    "tickets": _Column(Field("Tickets", is_number=True), lambda row, _: str(row["tickets"])),
    "state": _Column(
        Field("State"), lambda row, style: (_state_words if style.is_piped else _marked_state)(row, style.now)
    ),
    "size": _Column(
        Field("Size", is_number=True),
        lambda row, style: str(row["size"]) if style.is_piped else format_size(row["size"]),
    ),
    "renewable": _Column(Field("Renewable until"), lambda row, style: style.past_or_end(row["renew_till"])),
    "renewed": _Column(Field("Renewed"), lambda row, style: style.past_or_end(row["last_renewal"])),
    "renewal": _Column(Field("Next renewal"), lambda row, style: style.past_or_end(_next_renewal(row))),
    "uuid": _Column(Field("UUID"), lambda row, _: row["uuid"].hex()),
    "label": _Column(Field("Label", floors=(20, 8)), lambda row, _: row["label"] or "-"),
}
DEFAULT_COLUMNS = ("user", "principal", "ccache", "expires", "tickets", "state")
WIDE_COLUMNS = (
    *("user", "uid", "principal", "ccache", "expires", "renewable", "renewed", "tickets", "size", "state"),
)


def _next_renewal(row: Row) -> int | None:
    due = row["renewal"]["next_attempt"] if "renewal" in row else None
    return None if due is None else int(due)


def ccache_json(row: Row) -> Row:
    """The keys that `list --json` and `show --json` have in common, in that order."""
    return {
        "uid": row["uid"],
        "user": user_name(row["uid"]),
        "name": format_ccache(row["name"]),
        "uuid": row["uuid"].hex(),
        "principal": row["principal"],
        "default": row["default"],
        "current_default": row["current_default"],
        "tickets": row["tickets"],
        "size": row["size"],
        "expires": row["expires"],
        "tgt_expires": row["tgt_expires"],
        "renew_till": row["renew_till"],
        "label": row["label"],
        "last_renewal": row["last_renewal"],
    }


def renewal_json(row: Row) -> Row:
    """The state of renewal, if pykcm-renew renews the TGT of the ccache."""
    return {"renewal": row["renewal"]} if "renewal" in row else {}


def renewal_words(renewal: Row) -> str:
    """The next attempt and the last result in one line."""
    due, last = renewal["next_attempt"], renewal["last_attempt"]
    words = "no further attempt" if due is None else f"next attempt at {format_time(int(due))}"
    if last is None:
        return words
    result = ": ".join(filter(None, (renewal["last_result"], renewal["last_message"])))
    return f"{words}; last attempt at {format_time(int(last))}: {result}"


def _has_expired(row: Row, now: float) -> bool:
    return row["expires"] is not None and row["expires"] <= now


def _is_renewing(row: Row, now: float) -> bool:
    """Whether something renews the TGT: it was renewed before, and can be renewed again."""
    return row["last_renewal"] is not None and (row["renew_till"] or 0) > now and not _has_expired(row, now)


# Marks and words of the states, the most important first.
_STATES: tuple[tuple[str, str, Callable[[Row, float], bool]], ...] = (
    ("!", "damaged", lambda row, _: row["principal"] is None),
    ("!", "expired", _has_expired),
    ("~", "renewing", _is_renewing),
    ("*", "default", lambda row, _: row["default"]),
    ("+", "default", lambda row, _: row["current_default"] and not row["default"]),
)


def _importance(row: Row) -> int:
    """The place of the most important state among all states; after them for none."""
    now = time.time()
    applying = (place for place, (_, _, applies) in enumerate(_STATES) if applies(row, now))
    return next(applying, len(_STATES))


# Rows without a value come last.
SORT_KEYS: dict[str, Callable[[Row], Any]] = {
    "user": lambda row: user_name(row["uid"]) or str(row["uid"]),
    "uid": lambda row: row["uid"],
    "principal": lambda row: row["principal"],
    "ccache": lambda row: row["name"],
    "expires": lambda row: row["expires"],
    "renewable": lambda row: row["renew_till"],
    "renewed": lambda row: row["last_renewal"],
    "renewal": _next_renewal,
    "tickets": lambda row: row["tickets"],
    "size": lambda row: row["size"],
    "state": _importance,
    "uuid": lambda row: row["uuid"],
    "label": lambda row: row["label"],
}


def states_of(row: Row, now: float) -> list[str]:
    """All states of a ccache in words, the most important first."""
    return [word for _, word, applies in _STATES if applies(row, now)]


def _state_words(row: Row, now: float) -> str:
    return ",".join(states_of(row, now)) or "-"


def _marked_state(row: Row, now: float) -> str:
    """The marks of all states, the default's first so that they are in one column, and one word."""
    states = [(mark, word) for mark, word, applies in _STATES if applies(row, now)]
    if not states:
        return ""
    marks = "".join(mark for mark, _ in reversed(states))
    return f"{marks if marks[0] in '*+' else ' ' + marks:<2} {states[0][1]}"
