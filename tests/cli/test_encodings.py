"""pykcmctl in every locale: what stdout cannot encode is escaped, and ends no command in the middle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_files import answering
from tests.cli.test_hostile_names import TEXTS, listed
from tests.e2e.daemon import ROOT

NAME = "é € 日本 \udcff"

ENVIRONMENTS = {
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX"},
    "none": {},
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "strict": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "strict ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
}


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_name_ends_a_command(tmp_path: Path, environment: dict[str, str], options: list[str]) -> None:
    """All rows are printed, JSON can be read and means the same in each locale."""
    path = tmp_path / "control.sock"
    with answering(path, *listed(NAME, *TEXTS)):
        done = subprocess.run(
            [sys.executable, "-m", "pykcm.cli.main", "--socket", path, "list", *options],
            capture_output=True,
            check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
            cwd="/",
        )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done
    number = 2 * (1 + len(TEXTS))
    if options:
        encoding = "latin-1" if "latin-1" in str(environment) else "utf-8"
        rows = json.loads(done.stdout.decode(encoding))
        assert len(rows) == number
        # A lone surrogate is three bytes here, each no UTF-8.
        assert rows[0]["name"] == rows[1]["name"] == r"KCM:é € 日本 \xed\xb3\xbf"
    else:
        assert done.stdout.count(b"\n") == number
