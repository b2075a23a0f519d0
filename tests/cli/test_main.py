"""Errors of the connection to the daemon: their messages and exit statuses."""

import subprocess
import sys
from pathlib import Path

import pytest


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
