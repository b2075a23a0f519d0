"""The command line as a whole: its help, and the messages and exit statuses of connection errors."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pykcm.cli.main import cli


def run_list(path: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pykcm.cli.main", "--socket", path, "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_help_shows_the_whole_summary_of_each_command() -> None:
    """On a terminal of 80 columns, the summary of no command is cut."""
    printed = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    summaries = printed.partition("\nCommands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(summaries) == len(cli.commands)
    assert [line for line in summaries if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("missing", 3, "no daemon answers"),
        ("file", 3, "no daemon answers"),
        ("x" * 200, 1, "cannot use the control socket (AF_UNIX path too long): check --socket"),
        ("file/below", 1, "cannot use the control socket (Not a directory): check --socket"),
    ],
)
def test_unusable_socket_is_explained(tmp_path: Path, name: str, status: int, message: str) -> None:
    """The message names the option, and the exit status says whether a daemon could be started there."""
    (tmp_path / "file").touch()
    returncode, errors = run_list(str(tmp_path / name))
    assert returncode == status
    assert message in errors
    assert len(errors.splitlines()) == 1
