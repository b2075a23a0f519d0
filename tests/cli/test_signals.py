"""pykcmctl when it, or the daemon, ends in the middle of a command."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pyrage
import pytest

from pykcm.cli.files import _open_unnamed
from pykcm.config import load_config
from pykcm.control.frames import encode
from pykcm.store.offline import OfflineStores
from tests.builders import ALICE
from tests.cli.answers import answering, items
from tests.server.asking import Server


def has_begun(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Whether the process has an unfinished file open in the folder, with or without a name."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(f"{folder}/"):
                return True
    return False


# Runs pykcmctl. Each of the first two arguments is a signal, a number, and a function: in the call of this
# number, the signal comes first of all. To continue a generator is a call.
SIGNALLED = """
import os, sys
from pykcm.interrupts import end_by_interrupts
end_by_interrupts()
from pykcm.cli.main import main

def at(place):
    number, _, place = place.partition(":")
    calls, _, name = place.partition(":")
    count = 0
    def trace(frame, event, _):
        nonlocal count
        if event == "call" and frame.f_code.co_qualname == name:
            count += 1
            if count == int(calls):
                os.kill(os.getpid(), int(number))
    return trace

# Python removes such a function when it raises an exception.
sys.settrace(at(sys.argv.pop(1)))
sys.setprofile(at(sys.argv.pop(1)))
main()
"""


def command_of(
    first: tuple[signal.Signals, str], *arguments: str, second: tuple[signal.Signals, str] | None = None
) -> list[str]:
    """The command for pykcmctl with signals at the beginning of functions: `name`, or `number:name`."""
    places = [
        "" if each is None else f"{each[0]:d}:{'' if ':' in each[1] else '1:'}{each[1]}"
        for each in (first, second)
    ]
    return [sys.executable, "-c", SIGNALLED, *places, *arguments]


def run_signalled(
    first: tuple[signal.Signals, str], *arguments: str, second: tuple[signal.Signals, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = command_of(first, *arguments, second=second)
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["_Source.read", "_Target.write"])
def test_signal_during_encryption_shows_no_traceback(
    tmp_path: Path, number: signal.Signals, name: str
) -> None:
    """Age, which calls these functions, replaces their exceptions."""
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    path = tmp_path / "control.sock"
    arguments = ("--socket", str(path), "export", "--recipient", recipient, str(tmp_path / "tickets"))
    with answering(path, *items({"count": 0})):
        done = run_signalled((number, name), *arguments)
    messages = "\naborted\n" if number == signal.SIGINT else ""
    assert (done.returncode, done.stderr) == (128 + number, messages)
    assert list(tmp_path.iterdir()) == []


def test_second_signal_does_not_end_cleanup(tmp_path: Path) -> None:
    """A closed terminal may send two signals. The unfinished file has a name when it is to be renamed."""
    path = tmp_path / "control.sock"
    arguments = ("--socket", str(path), "export", "--plain", "--force", str(tmp_path / "tickets"))
    with answering(path, *items({"count": 0})):
        second = (signal.SIGTERM, "_remove")
        done = run_signalled((signal.SIGHUP, "Path.rename"), *arguments, second=second)
    assert (done.returncode, done.stderr) == (128 + signal.SIGHUP, "")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_import_says_how_far_it_came(tmp_path: Path) -> None:
    """The connection waits for the second result."""
    path = tmp_path / "control.sock"
    result = {"result": "imported", "uid": 1, "name": b"1", "principal": "a", "reason": "", "default": True}
    with answering(path, {"item": {"ccache": result}}):
        done = run_signalled(
            (signal.SIGTERM, "2:Answer._receive"), "--socket", str(path), "import", f"DIR:{tmp_path}"
        )
    assert (done.returncode, done.stdout.split("\t")[0]) == (128 + signal.SIGTERM, "imported")
    assert done.stderr == (
        "interrupted after: 1 imported; repeat the command: ccaches that are complete stay\n"
    )


def test_interrupted_rekey_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with answering(path, {"item": {"size": 2, "done": 1}}):
        done = run_signalled((signal.SIGTERM, "2:Answer._receive"), "--socket", str(path), "rekey")
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.startswith("rekey: interrupted: the database has either the new key or the old one")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_store_copy_says_how_far_it_came(tmp_path: Path, number: signal.Signals) -> None:
    """Repeated, it goes on."""
    files = []
    for name in ("source", "target"):
        (tmp_path / name).mkdir(0o700)
        files.append(tmp_path / f"{name}.toml")
        files[-1].write_text(f'state_dir = "{tmp_path / name}"\n')
    with ExitStack() as at_end, asyncio.Runner() as runner:
        store = OfflineStores(at_end).open(load_config(files[0]), may_create=True)
        server = Server(runner, store)
        for uid in (1000, 1001):
            server.ask_as(uid).initialize(b"%d" % uid, ALICE)
    arguments = ("store", "copy", *map(str, files))
    done = run_signalled((number, "progress_bar.<locals>.<lambda>"), *arguments)
    assert done.returncode == 128 + number
    assert done.stderr.splitlines()[0] == (
        "store copy: interrupted: at least 1 ccache copied, 1 of 2 users done; repeat the command to go on"
    )
    again = subprocess.run(
        [sys.executable, "-m", "pykcm.cli.main", *arguments], capture_output=True, text=True, check=True
    )
    assert "\nunchanged: 2 ccaches of 2 users\n" in again.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_at_start_of_progress_bar_leaves_cursor(tmp_path: Path, number: signal.Signals) -> None:
    """The bar has hidden the cursor, and does not know yet that it has to show it."""
    path = tmp_path / "control.sock"
    terminal, other_end = os.openpty()
    arguments = ("--socket", str(path), "export", "--plain", str(tmp_path / "tickets"))
    with answering(path, *items({"count": 0})):
        command = command_of((number, "Live.refresh"), *arguments)
        environment = os.environ | {"TERM": "xterm"}
        with subprocess.Popen(command, stderr=other_end, env=environment) as process:
            os.close(other_end)
            output = b""
            # A terminal without processes is an error.
            with suppress(OSError):
                while piece := os.read(terminal, 1 << 16):
                    output += piece
    os.close(terminal)
    assert process.returncode == 128 + number
    assert b"\033[?25l" in output
    assert output.rpartition(b"\033[?25l")[2].count(b"\033[?25h") == 1


@pytest.mark.parametrize("options", [[], ["--force"]], ids=["new", "force"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_interrupted_export_leaves_nothing(
    tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    """An unfinished export contains tickets, so even a SIGKILL must not leave it."""
    folder = tmp_path / "exports"
    folder.mkdir()
    if number == signal.SIGKILL:
        if (unnamed := _open_unnamed(folder)) is None:
            pytest.skip("the file system has no files without a name")
        os.close(unnamed)
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        command = [sys.executable, "-m", "pykcm.cli.main", "--socket", str(path), "export", "--plain"]
        with subprocess.Popen([*command, *options, str(folder / "tickets")]) as exporting:
            try:
                server, _ = listening.accept()
                with server:
                    server.sendall(encode({"item": {"count": 1}}))
                    deadline = time.monotonic() + 60
                    while not has_begun(exporting, folder):
                        assert time.monotonic() < deadline
                        time.sleep(0.01)
                    exporting.send_signal(number)
                    assert exporting.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
            finally:
                exporting.kill()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("option", ["--plain", "--passphrase-file"])
def test_export_fails_when_daemon_ends(tmp_path: Path, option: str) -> None:
    """The message and exit status are those of other commands, and no file is left."""
    folder = tmp_path / "exports"
    folder.mkdir()
    path = tmp_path / "control.sock"
    passphrase = tmp_path / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text("a passphrase\n")
    options = [option, *([str(passphrase)] if option == "--passphrase-file" else [])]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        command = [sys.executable, "-m", "pykcm.cli.main", "--socket", str(path), "export", *options]
        with subprocess.Popen([*command, str(folder / "tickets")], stderr=subprocess.PIPE) as exporting:
            try:
                server, _ = listening.accept()
                with server:
                    server.sendall(encode({"item": {"count": 1}}))
                _, errors = exporting.communicate(timeout=60)
            finally:
                exporting.kill()
    assert (exporting.returncode, b"the connection ended before the end of the reply" in errors) == (
        3,
        True,
    ), errors
    assert list(folder.iterdir()) == []
