"""The command line as a whole: its help, and the messages and exit statuses of connection errors."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pykcm.cli.examples import EXAMPLES
from pykcm.cli.main import cli
from tests.cli.runner import separate_runner

# The names of all commands, with those of groups.
NAMES = {
    *cli.commands,
    *[
        f"{name} {member}"
        for name, command in cli.commands.items()
        if isinstance(command, click.Group)
        for member in command.commands
    ],
}


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
        ("missing", 3, "/missing: no daemon answers: No such file or directory; start "),
        ("file", 3, "/file: is not a socket; name the daemon's control socket with --socket"),
        ("x" * 200, 1, ": cannot be used as the control socket: AF_UNIX path too long; check --socket"),
        (
            "file/below",
            1,
            "file/below: cannot be used as the control socket: Not a directory; check --socket",
        ),
    ],
)
def test_unusable_socket_is_explained(tmp_path: Path, name: str, status: int, message: str) -> None:
    """The message names the option, and the exit status says whether a daemon could be started there."""
    (tmp_path / "file").touch()
    returncode, errors = run_list(str(tmp_path / name))
    assert returncode == status
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message", "usage"),
    [
        (["lst"], "no such command 'lst'; did you mean 'list'?", "pykcmctl [OPTIONS]"),
        (["list", "--foo"], "list: no such option '--foo'", "pykcmctl list"),
        (["zzz"], "no such command 'zzz'", "pykcmctl [OPTIONS]"),
        (
            ["list", "--sorts"],
            "list: no such option '--sorts'; did you mean '--json', '--sort', '--user'?",
            "pykcmctl list",
        ),
        (["list", "--principa"], "list: no such option '--principa'; did you mean '", "pykcmctl list"),
        (
            ["list", "alice"],
            "list: unexpected argument 'alice'; for the ccaches of one user give --user",
            "pykcmctl list",
        ),
        (["show"], "show: missing argument 'CCACHE'", "pykcmctl show"),
        (
            ["migrate"],
            "migrate: missing option '--from'; choose from: sssd, heimdal, files",
            "pykcmctl migrate",
        ),
        (["store", "chek"], "store: no such command 'chek'; did you mean 'check'?", "pykcmctl store"),
        (["store", "init", "--foo"], "store init: no such option '--foo'", "pykcmctl store init"),
        (["list", "--user", "no one"], "list: --user: there is no user 'no one'; give a name", None),
        (["destroy", "--user", "no one"], "destroy: --user: there is no user 'no one'", None),
        (["list", "--principal"], "list: option '--principal' requires an argument", None),
        (["stats", "x"], "stats: unexpected argument 'x'", "pykcmctl stats"),
        (
            ["trace", "--op", "retreive"],
            "trace: --op: there is no operation 'retreive'; did you mean RETRIEVE",
            None,
        ),
        (["trace", "--op", "x"], "trace: --op: there is no operation 'x'; `pykcmctl stats` names", None),
        (["show", "KCM:"], "show: CCACHE: give the name of one ccache", None),
        (["completion", "sh"], "completion: SHELL: 'sh' is not one of 'bash', 'zsh', 'fish'", None),
    ],
)
def test_errors_have_one_form(arguments: list[str], message: str, usage: str | None) -> None:
    """One line says what is wrong; the usage follows only if the usage was wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "pykcm.cli.main", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    first, *others = done.stderr.splitlines()
    assert first.startswith(f"pykcmctl: {message}")
    assert [line.startswith(f"Usage: {usage}") for line in others[:1]] == ([] if usage is None else [True])


def test_unreachable_database_is_explained_in_one_line(tmp_path: Path) -> None:
    """The errors of libpq have several lines."""
    pytest.importorskip("psycopg")
    pytest.importorskip("cryptography")
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "pykcm.toml").write_text(
        f'store = "postgresql"\npostgresql = "host=127.0.0.1 port=1 dbname=db"\nkey_file = "{tmp_path}/key"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "pykcm.cli.main", "store", "check", "--config", str(tmp_path / "pykcm.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("pykcmctl: postgresql 127.0.0.1/db: ")
    assert "Connection refused" in done.stderr
    assert "\\x" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"x", b"root:x:0:0:root:/root:/bin/bash\n", b"\xa1\x66"])
def test_file_that_is_no_export_is_named(tmp_path: Path, content: bytes) -> None:
    """The message does not speak of ccaches that the file never had."""
    path = tmp_path / "file"
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "pykcm.cli.main", "import", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"pykcmctl: {path}: ")
    assert "not an export of pykcmctl" in done.stderr
    assert "ccaches" not in done.stderr


@pytest.mark.parametrize("source", ["KEYRING:persistent:0", "MEMORY:x", "API:x"])
def test_type_that_cannot_be_imported_is_named(source: str) -> None:
    result = separate_runner().invoke(cli, ["import", source])
    assert result.exit_code == 1
    assert f"{source}: ccaches of the type {source.partition(':')[0]} cannot be imported" in result.stderr


@pytest.mark.parametrize("prefix", ["FILE:", "DIR:", ""])
def test_loop_of_links_is_explained(tmp_path: Path, prefix: str) -> None:
    """The text of an errno alone helps nobody."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    done = subprocess.run(
        [sys.executable, "-m", "pykcm.cli.main", "import", f"{prefix}{tmp_path}/a/x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "symbolic link" in done.stderr
    assert "Too many levels" not in done.stderr
    assert "Errno" not in done.stderr


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", ["", *sorted(NAMES)])
def test_help_has_two_examples_and_is_not_cut(name: str, width: int) -> None:
    """No line of a help is longer than the terminal is wide, or ends with an ellipsis."""
    arguments = [*name.split(), "--help"]
    printed = CliRunner().invoke(cli, arguments, prog_name="pykcmctl", terminal_width=width).output
    lines = printed.splitlines()
    assert [
        line for line in lines if len(line) > width or (line.endswith(("...", "…")) and "[ARGS]" not in line)
    ] == []
    examples = printed.partition("Examples:\n")[2].splitlines()
    assert sum(line.startswith("    pykcmctl ") for line in examples) == 2


def test_every_example_belongs_to_a_command() -> None:
    """There are no examples of commands that do not exist."""
    assert EXAMPLES.keys() == {"", *NAMES}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_valid_commands(name: str) -> None:
    """The command, its options and its arguments exist."""
    for example in EXAMPLES[name]:
        words = shlex.split(re.split(r" [|>]", example.arguments)[0])
        words = [word.replace("alice", "root") for word in words]
        assert words[: len(name.split())] == name.split()
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        with command.make_context(command.name, words):
            pass
