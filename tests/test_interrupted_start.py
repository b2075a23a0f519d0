"""SIGINT (Ctrl+C) during the start of a program, while its modules are imported."""

import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGED = ROOT / "packaging/programs"
ENTRY_POINTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
MODULES = {
    "pykcmctl": "pykcm.cli.main",
    "pykcmd": "pykcm",
    "pykcm-audit": "pykcm.audit",
    "pykcm-renew": "pykcm.renew.program",
}

# Notes the imported modules in a file; sends SIGINT when one of a given name is imported.
CUSTOMIZED = """
import os, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        with open(os.environ["IMPORTED"], "a") as file:
            print(name, file=file)
        if name == os.environ["INTERRUPTED"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
"""

# The last module that is imported before SIGINT has its default action.
FIRST = "pykcm.interrupts"


def command_of(program: str, form: str) -> list[str]:
    """The command that runs the program in one of the forms in which it is installed."""
    if form == "package":
        return [sys.executable, str(PACKAGED / program), "--help"]
    if form == "module":
        return [sys.executable, "-m", MODULES[program], "--help"]
    module, _, function = ENTRY_POINTS[program].partition(":")
    # As pip's script does it.
    return [
        sys.executable,
        "-c",
        f"import sys; from {module} import {function}; sys.exit({function}())",
        "--help",
    ]


class Starts:
    """Starts of one program."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._command = command
        self._imported = folder / "imported"
        (folder / "sitecustomize.py").write_text(CUSTOMIZED)
        self._environment = {
            "PYTHONPATH": f"{folder}:{ROOT}",
            "IMPORTED": str(self._imported),
            "LC_ALL": "C.UTF-8",
        }

    def run(self, interrupted: str, *, ignores: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the program to its end; send SIGINT when the module is imported."""
        # SIGINT is ignored as in a background job of a shell.
        prefix = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if ignores else []
        return subprocess.run(
            [*prefix, *self._command],
            capture_output=True,
            text=True,
            check=False,
            env=self._environment | {"INTERRUPTED": interrupted},
        )

    def imported(self) -> list[str]:
        """The modules that a start imports after the first ones."""
        self._imported.write_text("")
        done = self.run("")
        assert (done.returncode, done.stderr) == (0, "")
        names = self._imported.read_text().split()
        return names[names.index(FIRST) + 1 :]


@pytest.mark.parametrize("form", ["entry-point", "module", "package"])
@pytest.mark.parametrize("program", sorted(ENTRY_POINTS))
def test_interrupted_start_shows_nothing(program: str, form: str, tmp_path: Path) -> None:
    """SIGINT while a module is imported ends a program by that signal, without a traceback."""
    starts = Starts(command_of(program, form), tmp_path)
    names = starts.imported()
    for name in dict.fromkeys([*names[:3], *names[:: len(names) // 3], names[-1]]):
        done = starts.run(name)
        assert (name, done.returncode, done.stdout, done.stderr) == (name, -signal.SIGINT, "", "")


@pytest.mark.parametrize("program", sorted(ENTRY_POINTS))
def test_ignored_interrupt_stays_ignored(program: str, tmp_path: Path) -> None:
    """A program that nohup or a shell without job control has started is not ended by SIGINT."""
    starts = Starts(command_of(program, "package"), tmp_path)
    done = starts.run(starts.imported()[-1], ignores=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_interrupted_command_cleans_up(tmp_path: Path) -> None:
    """SIGINT while a command of pykcmctl runs raises KeyboardInterrupt, which cleans up."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen()
        program = str(PACKAGED / "pykcmctl")
        with subprocess.Popen(
            [sys.executable, program, "--socket", str(tmp_path / "control.sock"), "list"],
            env={"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            connection, _ = silent.accept()
            with connection:
                # The command waits for the answer to this request.
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                _, messages = process.communicate()
    assert (process.returncode, messages) == (128 + signal.SIGINT, "\naborted\n")
