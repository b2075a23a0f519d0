"""The report of the doctor as it is on the screen."""

import textwrap

import pytest

from pykcm.cli.doctor import report
from pykcm.cli.doctor.report import Finding, print_report, summary
from pykcm.cli.doctor.results import Check, Level, Result, failed, ok, skipped, warning

LONG = "a long text that takes more than one line " * 3


def finding(group: str, name: str, result: Result) -> Finding:
    def check(_: object) -> Result:
        """Check that the purpose is shown."""
        return result

    return Finding(group, Check(name, check), result)


FINDINGS = [
    finding("First", "fine", ok("all is well")),
    finding("First", "odd", warning("looks odd", "look again")),
    finding("Second", "broken", failed(LONG, "mend it", "try it")),
    finding("Second", "hidden", skipped("needs root")),
]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_problems_are_first_and_summary_is_last(capsys: pytest.CaptureFixture[str]) -> None:
    """A check has one line in a pipe; the commands follow it."""
    print_report(FINDINGS, quiet=False, verbose=False)
    assert lines(capsys) == [
        "Problems",
        f"  failed   broken  {LONG}",
        "           mend it",
        "           try it",
        "",
        "Warnings",
        "  warning  odd     looks odd",
        "           look again",
        "",
        "First",
        "  ok       fine    all is well",
        "",
        "Second",
        "  skipped  hidden  needs root",
        "",
        "1 problem, 1 warning, 1 fine, 1 skipped",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_has_a_hanging_indent_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(report, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    print_report(FINDINGS, quiet=True, verbose=False)
    text = lines(capsys)[1 : lines_of_text(width) + 1]
    assert all(len(line) <= width for line in text)
    assert all(line.startswith(" " * 19) and line[19] != " " for line in text[1:])
    assert " ".join(line[19:] for line in text) == LONG.strip()


def lines_of_text(width: int) -> int:
    return len(textwrap.wrap(LONG, width - 19))


def test_quiet_leaves_out_everything_without_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(FINDINGS, quiet=True, verbose=False)
    assert "First" not in lines(capsys)
    print_report([FINDINGS[0], FINDINGS[3]], quiet=True, verbose=False)
    assert lines(capsys) == []


def test_verbose_has_the_purpose_of_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(FINDINGS, quiet=False, verbose=True)
    assert sum("Check that the purpose is shown." in line for line in lines(capsys)) == len(FINDINGS)


@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, no_color: str, is_coloured: bool) -> None:
    """An empty NO_COLOR counts as none."""
    printed = []
    monkeypatch.setattr(report, "print_line", lambda text="", *, styled="": printed.append(styled + text))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    print_report(FINDINGS, quiet=False, verbose=True)
    assert any("\x1b" in line for line in printed) == is_coloured


def test_summary_leaves_out_zeros() -> None:
    assert summary([Level.OK] * 3) == "no problems, 3 fine"
    assert summary([Level.FAILED] * 2 + [Level.WARNING] + [Level.OK] * 18) == "2 problems, 1 warning, 18 fine"
