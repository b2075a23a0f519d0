"""pykcmctl whose output cannot be written: a full disk, a closed pipe, a closed stderr."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from tests.builders import principal

from .clients import MitClient
from .conftest import USER
from .control import Pykcmctl
from .daemon import LIMIT, Pykcmd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may use the control socket")

PRINTING = [
    ["list"],
    ["list", "--json"],
    ["stats"],
    ["stats", "--json"],
    ["metrics"],
    ["doctor", "--json"],
    ["--help"],
    ["list", "--help"],
    ["--version"],
    ["completion", "bash"],
    ["export", "--plain", "-"],
]


def output_to(ctl: Pykcmctl, arguments: list[str], redirection: str) -> tuple[int, list[str]]:
    """The exit status, and the messages about the output and from Python itself."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *ctl.argv(*arguments)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    prefixes = ("pykcmctl:", "Error:", "Traceback", "Exception ignored")
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith(prefixes)]


@pytest.mark.parametrize(
    ("redirection", "complaints"),
    [
        (
            ">/dev/full",
            ["pykcmctl: stdout: No space left on device; the output is incomplete: repeat the command"],
        ),
        (">&-", ["pykcmctl: stdout: Bad file descriptor; the output is incomplete: repeat the command"]),
    ],
)
def test_unwritable_output_fails_the_command(
    mit_as: Callable[[int], MitClient], ctl: Pykcmctl, redirection: str, complaints: list[str]
) -> None:
    """A full disk or a closed stdout is reported in one line, by every command that prints."""
    mit_as(USER).kinit("alice")
    for arguments in PRINTING:
        assert output_to(ctl, arguments, redirection) == (1, complaints), arguments


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["destroy", "--user", str(USER)], 2),
        (["import", "-"], 1),
        (["import", "--passphrase-file", "/dev/stdin", "-"], 1),
        (["export", "/tmp/never-written"], 2),
        (["rekey", "--new-key", "/dev/stdin"], 1),
        (["list"], 0),
    ],
)
def test_closed_stdin_is_an_empty_one(ctl: Pykcmctl, arguments: list[str], status: int) -> None:
    """A command that reads stdin says what it needs, in one line; others do not notice."""
    found, messages = output_to(ctl, arguments, "<&-")
    assert not any("Traceback" in line for line in messages), messages
    assert found == status
    assert len(messages) == (status != 0), messages


def test_closed_pipe_ends_showing_commands_with_0(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """A reader that closed the pipe has seen enough, except of an export, which is incomplete then."""
    mit_as(USER).kinit("alice")
    for arguments in PRINTING:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            ctl.argv(*arguments), stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writing)
        is_export = "export" in arguments
        assert done.returncode == is_export, arguments
        assert ("incomplete" in done.stderr) == is_export
        for complaint in ("Broken pipe", "Traceback", "Exception ignored"):
            assert complaint not in done.stderr, arguments


def test_commands_that_change_something_fail_at_a_closed_pipe(
    mit_as: Callable[[int], MitClient], ctl: Pykcmctl
) -> None:
    """They may have ended before all was done."""
    mit_as(USER).kinit("alice")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(ctl.argv("destroy", "--yes", "--uid", str(USER)), stdout=writing, check=False)
    os.close(writing)
    assert done.returncode == 1


@pytest.mark.parametrize("command", ["watch", "trace"])
def test_watch_ends_when_output_fails(pykcmd: Pykcmd, ctl: Pykcmctl, command: str) -> None:
    """It ends at the first line that cannot be written."""
    with Path("/dev/full").open("w") as full:
        following = subprocess.Popen(ctl.argv(command), stdout=full, stderr=subprocess.PIPE, text=True)
    with following, KcmClient(pykcmd.socket_path) as client:
        deadline = time.monotonic() + LIMIT
        # Until it has begun to follow.
        while following.poll() is None and time.monotonic() < deadline:
            client.initialize(b"0", principal("root"))
        if following.poll() is None:
            following.kill()
        _, said = following.communicate()
    assert (following.returncode, said) == (
        1,
        "pykcmctl: stdout: No space left on device; the output is incomplete: repeat the command\n",
    )


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_unwritable_stderr_changes_nothing(
    mit_as: Callable[[int], MitClient], ctl: Pykcmctl, tmp_path: Path, redirection: str
) -> None:
    """With a full or closed stderr, commands and exit statuses are the same."""
    mit_as(USER).kinit("alice")
    copy = tmp_path / "backup"
    for arguments, status in (
        (["list"], 0),
        (["backup", str(copy)], 0),
        (["rekey"], 0),
        (["show", f"KCM:{USER}:missing"], 5),
        (["--wrong"], 2),
    ):
        command = ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *ctl.argv(*arguments)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        assert done.returncode == status, arguments
    assert copy.stat().st_size
