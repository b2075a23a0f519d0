"""The time of a test session with pykcm.testing: a KDC, a pykcmd, a TGT, and the end of both."""

import os
import re
import sys
from pathlib import Path
from statistics import median

from bench.processes import BenchError, finish, say, wall_time
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from pykcm.testing.guarded import missing_programs
from pykcm.testing.realm import PROGRAMS

_RUNS_IN_A_ROUND = 5
_QUICK_RUNS = 2

# In seconds of wall time, for the session with both fixtures.
_GOAL = 1.0

_EMPTY, _BOTH = "without a fixture", "krb5_realm and kcm_server, one kinit"

# A test by the fixtures that it uses; pytest's own time is that of the first one.
_TESTS = {
    _EMPTY: "def test_it():\n    pass\n",
    "krb5_realm, one kinit": "def test_it(krb5_realm):\n    krb5_realm.kinit('alice')\n",
    "kcm_server": "def test_it(kcm_server):\n    pass\n",
    _BOTH: "def test_it(krb5_realm, kcm_server):\n    krb5_realm.kinit('alice')\n",
}


def measure_testing(folder: Path, effort: Effort) -> str:
    """Measure, and return the table and how it was measured."""
    missing = missing_programs(PROGRAMS)
    if missing:
        raise BenchError(f"testing was not measured: {', '.join(missing)} missing")
    files = {title: _write(folder, number, text) for number, (title, text) in enumerate(_TESTS.items())}
    for file in files.values():
        _check(file)
    runs = _QUICK_RUNS if effort.is_quick else _RUNS_IN_A_ROUND
    seconds: dict[str, list[float]] = {title: [] for title in files}
    for number in range(effort.rounds):
        say(f"test sessions: round {number + 1} of {effort.rounds}")
        for title, file in files.items():
            seconds[title] += [wall_time(_command(file), _environment()) for _ in range(runs)]
    note = (
        "Wall times of `pytest` with one test, from its start to its end. Its own time is in each of them, "
        f"and that of other plugins in none. {effort.rounds * runs} sessions for each line."
    )
    return f"{_table(seconds)}\n{paragraph(note)}\n"


def _write(folder: Path, number: int, text: str) -> Path:
    project = folder / f"project{number}"
    project.mkdir()
    (project / "pytest.ini").write_text("[pytest]\n")
    file = project / "test_it.py"
    file.write_text(text)
    return file


def _command(file: Path) -> list[str]:
    plugin = ["-p", "pykcm.testing.plugin"]
    return [sys.executable, "-m", "pytest", "-q", *plugin, "--rootdir", str(file.parent), str(file)]


def _environment() -> dict[str, str]:
    # A test that is skipped would be a fast one. Plugins of pykcm's own tests take longer than the session.
    return os.environ | {"PYKCM_TESTING_REQUIRED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _check(file: Path) -> None:
    done = finish(_command(file), env=_environment())
    if done.returncode or not re.search(r"^1 passed", done.stdout, re.MULTILINE):
        raise BenchError(f"testing was not measured:\n{done.stdout}{done.stderr}")


def _table(seconds: dict[str, list[float]]) -> str:
    lines = []
    for title, times in seconds.items():
        middle = median(times)
        verdict = ["", ""]
        if title == _BOTH:
            verdict = [f"at most {_GOAL:g} s", "yes" if middle <= _GOAL else "**no**"]
        lines.append([title, *(f"{each:.2f} s" for each in (middle, min(times), max(times))), *verdict])
    return markdown_table(["a session with", "median", "smallest", "largest", "goal", "met"], lines)
