"""Completion in a real bash on a terminal: the command line after Tab."""

import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import click
import pytest

from pykcm.cli import completion
from pykcm.cli.main import cli
from pykcm.client import KcmClient
from tests.builders import ALICE

from .control import Pykcmctl
from .daemon import LIMIT, ROOT, Pykcmd

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may use the control socket")

# Readline inserts all that could be completed.
ALL = "\x1b*"


# pykcmctl, which gives a daemon on a loaded machine more than a second to answer.
_PROGRAM = f"""#!{sys.executable}
from pykcm.cli import completion
completion._TIMEOUT = {LIMIT}
from pykcm.cli.main import main
main()
"""


class Bash:
    """An interactive bash with the completion, on its own terminal."""

    def __init__(self, folder: Path, control_path: Path) -> None:
        program = folder / "pykcmctl"
        program.write_text(_PROGRAM)
        program.chmod(0o755)
        script = folder / "completion.bash"
        script.write_text(Pykcmctl(control_path).ok("completion", "bash"))
        (folder / "bashrc").write_text(
            f". {script}\nbind 'set enable-bracketed-paste off'\nbind 'set bell-style none'\nPS1='ready> '\n"
        )
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--rcfile", folder / "bashrc", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={
                "PATH": f"{folder}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PYKCM_CONTROL_SOCKET": str(control_path),
                "LC_ALL": "C.UTF-8",
                "TERM": "dumb",
                "COLUMNS": "1000",
                "HISTFILE": "",
            },
            cwd=folder,
            start_new_session=True,
        )
        os.close(theirs)
        self.screen = ""

    def __enter__(self) -> Self:
        self._read_until("ready> ")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(LIMIT)
        os.close(self._ours)

    def words(self, typed: str) -> list[str]:
        """The words of the command line after these keys, as bash splits them."""
        self.screen = ""
        # At the line's beginning, replace the completed command by one that prints its words.
        os.write(self._ours, f"{typed}\x01printf '<%s>' \x05 end\n".encode())
        self._read_until("<end>")
        line = self.screen.splitlines()[-1]
        return re.findall("<([^>]*)>", line[line.index("<pykcmctl>") :])[1:-1]

    def _read_until(self, text: str) -> None:
        deadline = time.monotonic() + LIMIT
        while text not in self.screen:
            readable, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"bash shows {self.screen!r}, and not {text!r}"
            self.screen += os.read(self._ours, 65536).decode(errors="replace")


@pytest.fixture
def bash(pykcmd: Pykcmd) -> Iterator[Bash]:
    with Bash(pykcmd.folder, pykcmd.control_path) as bash:
        yield bash


def make(pykcmd: Pykcmd, *names: bytes) -> None:
    with KcmClient(pykcmd.socket_path) as kcm:
        for name in names:
            kcm.initialize(name, ALICE)


def test_commands_and_options_are_completed(bash: Bash) -> None:
    assert bash.words("pykcmctl swi\t") == ["switch"]
    assert bash.words("pykcmctl list --expire\t") == ["list", "--expired"]
    assert bash.words("pykcmctl completion z\t") == ["completion", "zsh"]


@only_root
def test_ccaches_are_completed(pykcmd: Pykcmd, bash: Bash) -> None:
    """With or without KCM:, although bash splits words at colons."""
    make(pykcmd, b"0", b"0:one", b"20001:three")
    assert bash.words("pykcmctl show KCM:2\t") == ["show", "KCM:20001:three"]
    assert bash.words("pykcmctl show KCM:0:\t") == ["show", "KCM:0:one"]
    assert bash.words("pykcmctl show KC\t2\t") == ["show", "KCM:20001:three"]
    assert bash.words("pykcmctl destroy 20001:t\t") == ["destroy", "20001:three"]
    assert bash.words(f"pykcmctl show 0{ALL}") == ["show", "0", "0:one"]
    assert bash.words("pykcmctl switch --uid 0 KCM:0:\t") == ["switch", "--uid", "0", "KCM:0:one"]


@only_root
def test_users_are_completed(pykcmd: Pykcmd, bash: Bash) -> None:
    """Users with ccaches are completed by name, or by UID after a digit."""
    make(pykcmd, b"0", b"20001")
    assert bash.words("pykcmctl list --uid roo\t") == ["list", "--uid", "root"]
    assert bash.words("pykcmctl list --uid 2\t") == ["list", "--uid", "20001"]
    assert bash.words(f"pykcmctl list --uid {ALL}") == ["list", "--uid", "root", "20001"]


@only_root
def test_unsafe_names_are_not_completed(pykcmd: Pykcmd, bash: Bash) -> None:
    """Names that are special for a shell do not get onto root's command line."""
    hostile = [
        b"$(touch made)",
        b"`touch made`",
        b";touch made",
        b"a b",
        b"a\nplain,b",
        b"*",
        b"{a,b}",
        b"~root",
        b"!!",
        b"'",
        b'"',
        b"\\",
        b"\xff",
        b"\x1b[2J",
        b"a&",
        b"a|b",
        b">made",
        b"#",
        "é".encode(),
    ]
    make(pykcmd, b"0:good", *[b"0:" + each for each in hostile])
    assert bash.words(f"pykcmctl show KCM:0{ALL}") == ["show", "KCM:0:good"]
    assert not (pykcmd.folder / "made").exists()


def test_missing_daemon_completes_nothing(pykcmd: Pykcmd, bash: Bash) -> None:
    """No message is printed."""
    pykcmd.stop()
    assert bash.words("pykcmctl show KCM:\t") == ["show", "KCM:"]
    assert "no daemon" not in bash.screen
    assert "Traceback" not in bash.screen


def test_silent_daemon_has_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_TIMEOUT", 0.1)
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with cli.make_context("pykcmctl", ["--socket", str(path)], resilient_parsing=True) as context:
            assert completion.completions(context, "", lambda _: "x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each script calls pykcmctl in the way of its shell."""
    cli.main(["completion", shell], "pykcmctl", standalone_mode=False)
    assert f"_PYKCMCTL_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_unknown_shell_is_wrong_usage() -> None:
    with pytest.raises(click.UsageError):
        cli.main(["completion", "tcsh"], "pykcmctl", standalone_mode=False)
