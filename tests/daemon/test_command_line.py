"""The options of pykcmd, and their precedence over the configuration."""

import re

import pytest

from pykcm import __version__
from pykcm.command_line import Options, _ordinary_options, parser

from .conftest import Daemon, end


def test_version_is_printed(daemon: Daemon) -> None:
    """--version prints the version and starts nothing."""
    done = daemon.run("--version", configured=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pykcmd {__version__}\n", "")


def test_help_has_every_option(daemon: Daemon) -> None:
    """--help prints every option."""
    done = daemon.run("--help", configured=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = {"--config", "--socket-path", "--state-dir", "--store", "--log-level", "--version"}
    assert options <= set(re.findall(r"--[a-z-]+", done.stdout))


@pytest.mark.parametrize(
    "options",
    [
        ["--nonsense"],
        ["--store", "oracle"],
        ["--log-level", "verbose"],
        ["--socket-path"],
        ["start"],
        ["--config"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_usage_errors(daemon: Daemon, options: list[str]) -> None:
    """Wrong options end with status 2 and the usage, and start nothing."""
    done = daemon.run(*options)
    assert done.returncode == 2
    assert "usage: pykcmd" in done.stderr
    assert done.stdout == ""
    assert not daemon.state_dir.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--store", "memory", "--log-level", "debug"],
        ["--config", "a b/c", "--socket-path", "x", "--state-dir", "/s", "--control-socket-path", "c"],
        ["--state-dir", "first", "--state-dir", "last"],
    ],
    ids=" ".join,
)
def test_ordinary_options_are_read_as_by_the_parser(arguments: list[str]) -> None:
    """Options of an ordinary start are read without argparse, and have the values that it gives them."""
    assert _ordinary_options(arguments) == parser().parse_args(arguments, Options())


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--check"], ["--check", "--show-config"], ["--version"], ["--help", "x"], ["serve", "now"]),
        *(["--store=memory"], ["--sto", "memory"], ["--store", "oracle"], ["--config"], ["--config", ""]),
        *(["--socket-path", "--check"], ["--", "x"], ["--config", "x", "--check"]),
    ],
    ids=" ".join,
)
def test_other_options_are_left_to_the_parser(arguments: list[str]) -> None:
    """Flags, mistakes and other ways to write an option are read by argparse."""
    assert _ordinary_options(arguments) is None


def test_options_override_the_configuration(daemon: Daemon) -> None:
    """Options on the command line override the files; relative paths are below the current folder."""
    daemon.socket_path = daemon.folder / "other.sock"
    process = daemon.start("--socket-path", "other.sock", "--store", "memory", "--log-level", "warning")
    assert not daemon.state_dir.exists()
    assert end(process) == 0
    assert daemon.log == ""


def test_state_folder_and_key_can_be_in_different_folders(daemon: Daemon) -> None:
    """--state-dir names the folder of the database, and key_file another place for the key."""
    key = daemon.folder / "the.key"
    with daemon.config.open("a") as config:
        config.write(f'key_file = "{key}"\n')
    process = daemon.start("--state-dir", "elsewhere")
    assert sorted(
        path.name for path in (daemon.folder / "elsewhere").iterdir() if path.suffix != ".db-wal"
    ) == [
        "lock",
        "pykcm.db",
    ]
    assert key.stat().st_size == 32
    assert end(process) == 0
