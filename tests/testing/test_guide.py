"""docs/testing.md: each of its examples runs as it stands there."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pykcm.testing.guarded import missing_programs
from pykcm.testing.realm import PROGRAMS
from tests.testing.nested import LIMIT, run_pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
SERVICE, WISHES, CONFTEST, WITHOUT_PYTEST = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)

pytestmark = pytest.mark.skipif(bool(missing_programs(PROGRAMS)), reason="no KDC here")


@pytest.mark.skipif(importlib.util.find_spec("gssapi") is None, reason="python-gssapi is missing")
def test_spnego_example_passes(tmp_path: Path) -> None:
    """The test of a web service passes, and has about twenty lines besides imports and blank lines."""
    outcome = run_pytest(tmp_path, SERVICE, "-W", "error")
    assert (outcome.status, outcome.passed) == (0, 1), outcome.output
    lines = [line for line in SERVICE.splitlines() if line and not re.match("import|from|SPNEGO", line)]
    assert len(lines) <= 20


@pytest.mark.usefixtures("libfaketime")
def test_examples_pass(tmp_path: Path) -> None:
    """Each example of a wish passes."""
    outcome = run_pytest(tmp_path, WISHES, PYKCM_TESTING_REQUIRED="1")
    assert (outcome.status, outcome.passed) == (0, WISHES.count("def test_")), outcome.output


def test_fixtures_can_be_replaced(tmp_path: Path) -> None:
    """A project's own realm and server are those that its tests get."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    source = """
def test_realm(krb5_realm, kcm_server):
    krb5_realm.kinit("dora")
    assert krb5_realm.principal("dora") == "dora@CORP.TEST"
"""
    outcome = run_pytest(tmp_path, source)
    assert (outcome.status, outcome.passed) == (0, 1), outcome.output


def test_example_without_pytest_works(tmp_path: Path) -> None:
    """The program for two realms runs without pytest, and does not import it."""
    program = f"{WITHOUT_PYTEST}\nimport sys\nassert 'pytest' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout
    assert "kvno = 1" in done.stdout
