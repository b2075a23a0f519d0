"""The command list: its columns, filters, order and screen."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pykcm.cli import listing, tables
from pykcm.cli.main import cli
from pykcm.cli.output import format_expiry
from tests.cli.answers import answering, items
from tests.cli.runner import separate_runner

NOW = 1_795_000_000

List = Callable[..., Result]


def row(uid: int = 1000, **changes: Any) -> dict[str, Any]:
    return {
        "uid": uid,
        "name": b"%d" % uid,
        "uuid": bytes(16),
        "principal": f"u{uid}@EXAMPLE.TEST",
        "default": False,
        "current_default": False,
        "tickets": 1,
        "size": 2048,
        "expires": NOW + 7200,
        "tgt_expires": NOW + 7200,
        "renew_till": None,
        "label": None,
        "last_renewal": None,
    } | changes


def use(uid: int = 1000, **changes: Any) -> dict[str, Any]:
    none = {"ccaches": 1, "size": 10, "credentials": 1}
    limits = {"max_ccaches": 100, "max_size": 10000, "max_credentials": 1000}
    return {"uid": uid} | none | limits | changes


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (listing, tables):
        monkeypatch.setattr(module, "is_terminal", lambda: True)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> List:
    """Runs `list` with a daemon that has these rows."""
    monkeypatch.setattr("time.time", lambda: float(NOW))
    monkeypatch.setenv("COLUMNS", "80")

    def run_list(
        *arguments: str,
        rows: list[dict[str, Any]],
        uses: list[dict[str, int]] | None = None,
        summary: dict[str, int] | None = None,
    ) -> Result:
        found = [*({"ccache": each} for each in rows), *({"user": each} for each in uses or [])]
        answer = items(
            *found, ccaches=len(rows), users=len({each["uid"] for each in rows}), size=1, **summary or {}
        )
        with answering(tmp_path / "control.sock", *answer) as client:
            return separate_runner().invoke(cli, ["--socket", str(client.path), "list", *arguments])

    return run_list


def names(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.split("\t")[2] for line in result.stdout.splitlines()]


def test_pipe_gets_iso_times_and_no_other_text(run: List) -> None:
    """In a pipe, lines are tab-separated, times have their zone, and stderr is empty."""
    result = run(rows=[row(4_000_000_000, default=True, current_default=True)])
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    user, principal, name, expires, tickets, state = line.split("\t")
    assert (user, principal, name) == ("4000000000", "u4000000000@EXAMPLE.TEST", "KCM:4000000000")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", expires)
    assert (tickets, state) == ("1", "default")


@pytest.mark.usefixtures("on_terminal")
@pytest.mark.parametrize("width", [80, 120])
def test_every_ccache_has_one_line_that_fits(run: List, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are shortened in the middle, wide characters count twice, and times are whole."""
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [
        row(
            uid,
            name=b"%d:%s" % (uid, b"x" * 200),
            **{"principal": f"{name}@A-VERY-LONG-REALM.EXAMPLE.TEST"} | changes,
        )
        for uid, name, changes in (
            (4_000_000_001, "a" * 100, {"default": True, "last_renewal": 5, "renew_till": NOW + 99}),
            (4_000_000_002, "日本" * 60, {"expires": NOW - 300, "default": True}),
            (4_000_000_003, "c", {"tickets": 1234567, "principal": None, "expires": None}),
        )
    ]
    result = run(rows=rows)
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert max(map(tables._cells, lines)) <= width
    assert "in 2 h" in lines[1]
    assert "expired 5 min ago" in lines[2]
    assert lines[3].endswith("damaged")
    assert "3 ccaches of 3 users" in result.stderr


@pytest.mark.usefixtures("on_terminal")
def test_one_long_name_does_not_shorten_the_others(run: List, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    rows = [row(uid) for uid in range(4_000_000_001, 4_000_000_010)]
    rows[4] |= {"principal": "p" * 100, "name": b"4000000005:" + b"n" * 100}
    lines = run(rows=rows).stdout.splitlines()
    assert [line.count("…") for line in lines] == [0] * 5 + [2] + [0] * 4


@pytest.mark.usefixtures("on_terminal")
@pytest.mark.parametrize(
    ("term", "value", "is_plain"), [("xterm", "", False), ("xterm", "1", True), ("dumb", "", True)]
)
def test_no_color_and_dumb_terminals_leave_styles_out(
    run: List, monkeypatch: pytest.MonkeyPatch, term: str, value: str, is_plain: bool
) -> None:
    """An empty NO_COLOR is not set, as https://no-color.org says."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", value)
    monkeypatch.setattr("click.echo", lambda text="", **_: print(text))  # noqa: T201
    assert ("\x1b" in run(rows=[row()]).stdout) is not is_plain


@pytest.mark.usefixtures("on_terminal")
@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, "", []),
        ({"default": True, "current_default": True}, "*  default", ["default"]),
        ({"current_default": True}, "+  default", ["default"]),
        ({"expires": NOW}, " ! expired", ["expired"]),
        ({"expires": NOW - 1, "default": True}, "*! expired", ["expired", "default"]),
        ({"principal": None, "expires": None}, " ! damaged", ["damaged"]),
        ({"last_renewal": NOW - 9, "renew_till": NOW + 9}, " ~ renewing", ["renewing"]),
        ({"last_renewal": NOW - 9, "renew_till": NOW}, "", []),
        ({"last_renewal": NOW - 9, "renew_till": NOW + 9, "expires": NOW - 1}, " ! expired", ["expired"]),
    ],
)
def test_state_has_a_mark_and_a_word(
    run: List, changes: dict[str, Any], state: str, words: list[str]
) -> None:
    """The marks are those of all states, and the word is that of the most important one."""
    result = run("--columns", "state", "--no-header", rows=[row(**changes)])
    assert result.stdout.removesuffix("\n") == state
    assert json.loads(run("--json", rows=[row(**changes)]).stdout)[0]["states"] == words


def test_filters_combine(run: List) -> None:
    """--principal is a pattern, and --expiring shows only what still ends within that time."""
    rows = [row(uid, expires=NOW + left) for uid, left in ((1, -1), (2, 0), (3, 1), (4, 3600), (5, 3601))]
    rows += [row(6, expires=None), row(7, principal=None)]
    assert names(run("--expiring", "1h", rows=rows)) == ["KCM:3", "KCM:4"]
    assert names(run("--expiring", "1h1s", rows=rows)) == ["KCM:3", "KCM:4", "KCM:5"]
    assert names(run("--principal", "u[35]@*", rows=rows)) == ["KCM:3", "KCM:5"]
    assert names(run("--principal", "u3@*", "--expiring", "60m", rows=rows)) == ["KCM:3"]
    assert names(run("--principal", "U3@*", rows=rows)) == []
    assert len(json.loads(run("--json", "--expiring", "1h", rows=rows).stdout)) == 2


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("expires", ["KCM:2", "KCM:1", "KCM:3"]),
        ("-expires", ["KCM:1", "KCM:2", "KCM:3"]),
        ("principal", ["KCM:3", "KCM:2", "KCM:1"]),
        ("-uid", ["KCM:3", "KCM:2", "KCM:1"]),
        ("state", ["KCM:2", "KCM:1", "KCM:3"]),
        ("uuid", ["KCM:3", "KCM:2", "KCM:1"]),
        ("-label", ["KCM:1", "KCM:2", "KCM:3"]),
    ],
)
def test_sort_puts_unknown_values_last(run: List, order: str, wanted: list[str]) -> None:
    rows = [
        row(1, expires=NOW + 9, principal="c", uuid=b"3", label="b", default=True),
        row(2, expires=NOW + 5, principal="b", uuid=b"2", label="a", last_renewal=5, renew_till=NOW + 9),
        row(3, expires=None, principal="a", uuid=b"1"),
    ]
    assert names(run("--sort", order, rows=rows)) == wanted


@pytest.mark.usefixtures("on_terminal")
def test_columns_are_chosen_by_name(run: List) -> None:
    result = run("--columns", "ccache,Size", rows=[row()])
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["Ccache", "Size"],
        ["KCM:1000", "2.0", "KiB"],
    ]
    wide = run("--wide", rows=[row(name=b"1000:" + b"x" * 300)])
    assert "x" * 300 in wide.stdout
    assert "Renewable until" in wide.stdout
    dates = run("--times", "--no-header", "--columns", "expires", rows=[row()])
    assert re.fullmatch(r"2026-11-\d\d \d\d:\d\d\n", dates.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "user,nonsense"], "there is no column 'nonsense'; there are user, uid, "),
        (["--sort", "nonsense"], "cannot sort by 'nonsense'"),
        (["--expiring", "soon"], "'soon' is not a duration; give one such as 1h"),
        (["--expiring", "1"], "'1' is not a duration"),
        (["--watch"], "--watch needs a terminal"),
        (["alice"], "--user alice"),
    ],
)
def test_wrong_options_are_explained(run: List, arguments: list[str], message: str) -> None:
    result = run(*arguments, rows=[])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"ccaches": 79}, None),
        ({"ccaches": 80}, "80%"),
        ({"size": 10000}, "100%"),
        ({"credentials": 950}, "95%"),
        ({"ccaches": 80, "max_ccaches": 0}, None),
    ],
)
def test_quota_is_mentioned_from_80_percent(run: List, changes: dict[str, int], share: str | None) -> None:
    result = run(rows=[row(4_000_000_000)], uses=[use(4_000_000_000, **changes)])
    if share is None:
        assert result.stderr == ""
    else:
        assert result.stderr.startswith(f"4000000000 has used {share} of a quota: ")
        is_full = int(share.removesuffix("%")) >= 95
        assert ('kinit says "Disk quota exceeded"' in result.stderr) is is_full


def test_quotas_in_use_are_named_with_their_options(run: List) -> None:
    """A quota of which less than 80 % is used is not mentioned next to a full one."""
    [line, _] = run(
        rows=[row()], uses=[use(4_000_000_000, ccaches=100, size=8000, credentials=1)]
    ).stderr.splitlines()
    assert line.endswith(": 100 of 100 ccaches (max_uid_ccaches), 7.8 KiB of 9.8 KiB (max_uid_size)")


def test_quota_of_a_single_ccache_is_named_with_the_ccache(run: List) -> None:
    """The user has room, and a kinit into this ccache may be refused."""
    near = {"name": b"4000000000:x", "size": 100, "max_size": 0, "credentials": 96, "max_credentials": 100}
    first, second = run(rows=[row()], uses=[use(4_000_000_000, near_ccaches=[near])]).stderr.splitlines()
    assert first.startswith("KCM:4000000000:x of 4000000000 has used 96% of a quota: ")
    assert first.endswith(": 96 of 100 credentials (max_ccache_credentials)")
    assert 'kinit says "Disk quota exceeded"' in second


def test_quota_of_all_users_together_is_mentioned(run: List) -> None:
    for number, mentioned in ((79, False), (80, True)):
        result = run(rows=[row()], uses=[use()], summary={"all_ccaches": number, "max_ccaches": 100})
        assert (f"{number} of 100 ccaches (max_ccaches)" in result.stderr) is mentioned


@pytest.mark.usefixtures("on_terminal")
def test_watch_draws_until_interrupted(run: List, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture begins at the top, has at most as many lines as the terminal, and Ctrl-C ends with 0."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    monkeypatch.setenv("LINES", "10")
    result = run("--watch", rows=[row(uid) for uid in range(40)])
    assert result.exit_code == 0
    assert "34 more lines" in result.stdout
    assert len(result.stdout.splitlines()) <= 10


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (1, "in 1 s"),
        (59, "in 59 s"),
        (3600, "in 60 min"),
        (9.9 * 3600, "in 9 h"),
        (7 * 86400, "in 7 d"),
        (80 * 365 * 86400, "in 80 y"),
        (0, "expired 0 s ago"),
        (-300, "expired 5 min ago"),
        (-90000, "expired 25 h ago"),
    ],
)
def test_expiry_is_in_words(left: float, text: str) -> None:
    assert format_expiry(int(NOW + left), NOW) == text


@pytest.mark.parametrize("width", range(12))
@pytest.mark.parametrize("text", ["KCM:1000:abcdef", "日本日本日本日本", "a" * 11])
def test_shortened_text_keeps_both_ends(text: str, width: int) -> None:
    """It never takes more cells than it may."""
    shortened = tables.shorten(text, width)
    assert tables._cells(shortened) <= width
    if 5 <= width < tables._cells(text):
        assert (shortened[0], shortened[-1]) == (text[0], text[-1])
