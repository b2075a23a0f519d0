"""The results file. Each section is replaced on its own, and names the machine that it was measured on."""

import os
import platform
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench import peers
from bench.paths import CACHE, RESULTS, ROOT
from bench.processes import finish
from pykcm import __version__

_INTRODUCTION = """\
# Benchmark results

`scripts/bench` writes this file; `scripts/bench --help` says how to measure again. Servers that are compared
were measured in the same run, one after the other in each of several rounds. Figures are medians over the
rounds of each round's median (p50). The state of all servers is on the same file system.
"""

# "Goals that are not met" is written by hand: what the profile shows, and what was tried.
SECTIONS = (
    *("Against the goals", "Goals that are not met", "How it grows", "Real clients"),
    *("Fairness", "Slow disk", "Shared store", "Renewal", "Test sessions"),
)

_LIBRARIES = ("sqlcipher3", "msgspec")


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table with padded columns; the first `left` columns are aligned to the left."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    rules = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    return "".join(map(row, [header, rules, *lines]))


def paragraph(text: str) -> str:
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def write_section(title: str, text: str, folder: Path, *, is_complete: bool) -> Path:
    """Replace a section of the results; an incomplete measurement goes to the cache and not to git."""
    path = RESULTS if is_complete else CACHE / "results.md"
    sections = _read(path)
    sections[title] = f"{_conditions(folder)}\n\n{text.strip()}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"## {name}\n\n{sections[name]}" for name in SECTIONS if name in sections]
    path.write_text("\n".join([_INTRODUCTION, *parts]))
    return path


def _read(path: Path) -> dict[str, str]:
    text = path.read_text() if path.exists() else ""
    sections = {}
    for part in text.split("\n## ")[1:]:
        title, _, rest = part.partition("\n\n")
        sections[title] = rest.strip("\n") + "\n"
    return sections


def _conditions(folder: Path) -> str:
    """Return a paragraph with the date, the machine and the versions."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = f"{os.getloadavg()[0]:.1f}"
    libraries = ", ".join(f"{name} {_library(name)}" for name in _LIBRARIES)
    others = "; ".join(
        f"{peers.TITLES[name]} {version}" for name in peers.PROGRAMS if (version := _peer(name))
    )
    return paragraph(
        f"{date}. {_processor()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"state on {file_system(folder)}; load average at the end {load}. "
        f"pykcm {__version__} ({_commit()}) with Python {platform.python_version()}, {libraries}"
        f"{'; ' + others if others else ''}."
    )


def _library(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _peer(name: str) -> str | None:
    try:
        return peers.version(name)
    except OSError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def file_system(folder: Path) -> str:
    try:
        done = finish(["findmnt", "--noheadings", "--output", "FSTYPE", "--target", folder])
    except FileNotFoundError:
        return "an unknown file system"
    return done.stdout.strip()


def _commit() -> str:
    try:
        done = finish(["git", "-c", f"safe.directory={ROOT}", "describe", "--always", "--dirty"], cwd=ROOT)
    except OSError:
        return "no git"
    return done.stdout.strip() or "no git"
