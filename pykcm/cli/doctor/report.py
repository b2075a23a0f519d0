"""The report of the doctor: problems first, then the other checks by group, and a summary."""

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pykcm.cli.doctor.results import Check, Level, Result
from pykcm.cli.output import format_count, is_terminal, print_line, styled
from pykcm.protocol.text import printable

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "red", Level.SKIPPED: None}
_LEVEL_WIDTH = max(map(len, Level))

# Columns: the indent of a check, and of the commands below it.
_INDENT = 2
_COMMAND_INDENT = _INDENT + _LEVEL_WIDTH + 2

# The smallest width of the text: a narrower terminal wraps it.
_SMALLEST_WIDTH = 20


class Finding(NamedTuple):
    """The result of a check, and the group that the check belongs to."""

    group: str
    check: Check
    result: Result

    @property
    def is_problem(self) -> bool:
        return self.result.level in {Level.FAILED, Level.WARNING}


def print_report(findings: Sequence[Finding], *, quiet: bool, verbose: bool) -> None:
    """Print the report. `quiet`: only problems and warnings. `verbose`: the purpose of each check as well."""
    if quiet and not any(finding.is_problem for finding in findings):
        return
    width = max(len(finding.check.name) for finding in findings)
    for heading, section in _sections(findings, quiet=quiet):
        print_line(styled=styled(heading, bold=True))
        for finding in section:
            _print_finding(finding, width, verbose=verbose)
        print_line()
    print_line(summary([finding.result.level for finding in findings]))


def _sections(findings: Sequence[Finding], *, quiet: bool) -> Iterator[tuple[str, list[Finding]]]:
    for heading, level in (("Problems", Level.FAILED), ("Warnings", Level.WARNING)):
        found = [finding for finding in findings if finding.result.level is level]
        if found:
            yield heading, found
    if quiet:
        return
    for group in dict.fromkeys(finding.group for finding in findings):
        fine = [finding for finding in findings if finding.group == group and not finding.is_problem]
        if fine:
            yield group, fine


def _print_finding(finding: Finding, width: int, *, verbose: bool) -> None:
    check, result = finding.check, finding.result
    level = " " * _INDENT + styled(f"{result.level:<{_LEVEL_WIDTH}}", fg=_COLOURS[result.level])
    first, *more = _wrapped(result.text, _COMMAND_INDENT + width + 2)
    print_line(f"  {check.name:<{width}}  {first}", styled=level)
    indent = " " * (_COMMAND_INDENT + width + 2)
    for line in more:
        print_line(indent + line)
    if verbose and check.run.__doc__:
        for line in _wrapped(" ".join(check.run.__doc__.split()), len(indent)):
            print_line(styled=indent + styled(line, dim=True))
    for command in result.remedy:
        print_line(" " * _COMMAND_INDENT + command)


def _wrapped(text: str, indent: int) -> list[str]:
    """The lines of the text for the terminal, to the right of `indent`; without a terminal, one line."""
    escaped = printable(text)
    if not is_terminal():
        return [escaped]
    width = max(shutil.get_terminal_size().columns - indent, _SMALLEST_WIDTH)
    return textwrap.wrap(escaped, width, break_long_words=False, break_on_hyphens=False) or [""]


def summary(levels: Iterable[Level]) -> str:
    """The numbers of problems, warnings, fine and skipped checks; of zero only that of problems."""
    numbers = Counter(levels)
    failed = numbers[Level.FAILED]
    parts = [format_count(failed, "problem") if failed else "no problems"]
    if numbers[Level.WARNING]:
        parts.append(format_count(numbers[Level.WARNING], "warning"))
    parts.append(f"{numbers[Level.OK]} fine")
    if numbers[Level.SKIPPED]:
        parts.append(f"{numbers[Level.SKIPPED]} skipped")
    return ", ".join(parts)
