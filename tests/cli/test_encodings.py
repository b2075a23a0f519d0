"""pykcmctl in every locale: characters that stdout cannot encode are escaped, and no command fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.answers import TEXTS, answering, list_answer
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
def test_unencodable_names_are_escaped(
    tmp_path: Path, environment: dict[str, str], options: list[str]
) -> None:
    """All rows are printed, and JSON is valid and means the same in each locale."""
    path = tmp_path / "control.sock"
    with answering(path, *list_answer(NAME, *TEXTS)):
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
        # A lone surrogate is three bytes here, none of which is UTF-8.
        assert rows[0]["name"] == rows[1]["name"] == r"KCM:é € 日本 \xed\xb3\xbf"
    else:
        assert done.stdout.count(b"\n") == number
