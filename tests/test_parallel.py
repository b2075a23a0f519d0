"""The suite in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HOOKS = "from tests.parallel import *"

TESTS = """
import os, time
from pathlib import Path
import pytest

RUNNING = Path(__file__).parent / "running"

def run_for_a_while():
    mine = RUNNING / str(os.getpid())
    mine.touch()
    time.sleep(0.01)
    found = len(list(RUNNING.iterdir()))
    mine.unlink()
    return found

@pytest.mark.parametrize("number", range(30))
def test_with_others(number):
    print("\\udcff")
    found = run_for_a_while()
    (RUNNING.parent / "most").open("a").write(f"{found}\\n")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(10))
def test_alone(number):
    assert run_for_a_while() == 1
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of its own, of tests that see whether others run."""
    (tmp_path / "running").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (tmp_path / "conftest.py").write_text(HOOKS)
    (tmp_path / "test_of_suite.py").write_text(TESTS)
    return tmp_path


def run(suite: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"],
        cwd=suite,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_alone_runs_while_no_other_test_does(suite: Path) -> None:
    """Tests run beside each other, but none beside one that is marked `alone`."""
    output = run(suite)
    assert "40 passed" in output, output
    assert "2" in (suite / "most").read_text().split()


def test_reports_that_are_not_utf8_are_sent(suite: Path) -> None:
    """A failing test may print and raise text that is not UTF-8."""
    (suite / "test_of_suite.py").write_text(
        "def test():\n    print('\\udcff')\n    raise ValueError('\\udcfe')\n"
    )
    output = run(suite)
    assert "1 failed" in output, output
    assert "INTERNALERROR" not in output
