"""The suite in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HOOKS = """
import time
from pathlib import Path
import pytest
from tests.parallel import *

FOLDER = Path(__file__).parent
ALONE_HAS_BEGUN = FOLDER / "alone has begun"

def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)

class Late:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        # Before the hook of tests.parallel: one worker may be far ahead of the other one.
        if item.originalname == "test_with_others":
            wait_until(ALONE_HAS_BEGUN.exists)
        return (yield)

def pytest_configure(config):
    config.pluginmanager.register(Late())
"""

TESTS = """
import os, time
from contextlib import contextmanager
import pytest
from conftest import ALONE_HAS_BEGUN, FOLDER, wait_until

HAVE_MET = FOLDER / "two have met"

@contextmanager
def running():
    mine = FOLDER / "running" / str(os.getpid())
    mine.touch()
    yield lambda: len(list(mine.parent.iterdir()))
    mine.unlink()

@pytest.fixture(autouse=True)
def name_is_written(request):
    with (FOLDER / os.environ["PYTEST_XDIST_WORKER"]).open("a") as file:
        file.write(request.node.originalname + "\\n")

@pytest.mark.parametrize("number", range(30))
def test_with_others(number):
    print("\\udcff")
    with running() as count:
        # The first ones of both workers wait for each other.
        wait_until(lambda: HAVE_MET.exists() or count() == 2)
        HAVE_MET.touch()

@pytest.mark.timeout(300)
def test_long():
    pass

@pytest.mark.alone
@pytest.mark.parametrize("number", range(10))
def test_alone(number):
    ALONE_HAS_BEGUN.touch()
    with running() as count:
        time.sleep(0.01)
        assert count() == 1
"""


def run_suite(folder: Path, tests: str) -> str:
    """Run a suite of these tests with two workers; returns the output."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (folder / "conftest.py").write_text(HOOKS)
    (folder / "test_of_suite.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that has run; each worker has written the names of its tests to a file."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "running").mkdir()
    output = run_suite(folder, TESTS)
    assert "41 passed" in output, output
    return folder


def test_alone_runs_while_no_other_test_does(suite: Path) -> None:
    """Tests run in parallel, except those marked `alone`."""
    # Each test marked `alone` has found no other one running.
    assert (suite / "two have met").exists()


def test_alone_and_long_tests_run_first(suite: Path) -> None:
    """One worker begins with all tests marked `alone`, and goes on with those that have their own timeout."""
    begins = [(suite / worker).read_text().split()[:11] for worker in ("gw0", "gw1")]
    assert ["test_alone"] * 10 + ["test_long"] in begins


def test_reports_that_are_not_utf8_are_sent(tmp_path: Path) -> None:
    """A failing test may print and raise text that is not UTF-8."""
    output = run_suite(tmp_path, "def test():\n    print('\\udcff')\n    raise ValueError('\\udcfe')\n")
    assert "1 failed" in output, output
    assert "INTERNALERROR" not in output
