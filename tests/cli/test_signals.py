"""pykcmctl when it, or the daemon, ends in the middle of a command."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pykcm.cli.files import _open_unnamed
from pykcm.control.frames import encode


def has_begun(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Whether the process has an unfinished file open in the folder, with or without a name."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(f"{folder}/"):
                return True
    return False


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
