"""scripts/demo and scripts/run, in a copy of the scripts that uses the environment of the tests."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import make_checkout

from .daemon import LIMIT

_NEEDED = ("krb5kdc", "kadmin.local", "kinit", "klist", "kvno", "kswitch", "kdestroy")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the two scripts and the environment of the tests. There is nothing to install in it."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [program for program in _NEEDED if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")
    return make_checkout(tmp_path, ["demo", "run"])


def test_demo_shows_what_an_administrator_sees(checkout: Path) -> None:
    """The demonstration succeeds, and shows the table of pykcmctl list and the lines of pykcmctl watch."""
    done = subprocess.run(
        [checkout / "scripts/demo"], capture_output=True, text=True, check=False, timeout=3 * LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["User", "Principal", "Ccache", "Expires", "Tickets", "State"] in lines
    created = [line for line in lines if line[2:3] == ["created"]]
    assert [line[-1] for line in created] == ["alice@DEMO.TEST", "bob@DEMO.TEST"]
    assert "\x1b" not in done.stdout


@pytest.fixture
def printed_commands(checkout: Path) -> Iterator[list[str]]:
    """The commands that scripts/run prints, while its daemon runs."""
    with subprocess.Popen(
        [checkout / "scripts/run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while "Serving credential caches" not in (line := process.stdout.readline()):
                assert line, lines
                lines.append(line)
            yield [line.strip() for line in lines if line.startswith("    ")]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT)


def test_run_gives_a_control_socket(printed_commands: list[str]) -> None:
    """After the commands that scripts/run prints, pykcmctl asks its daemon."""
    script = "\n".join(
        ["shopt -s expand_aliases", *printed_commands, "pykcmctl stats", "pykcmctl list --json"]
    )
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("[]\n")
