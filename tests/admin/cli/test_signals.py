"""pykcmctl that is ended from outside, in the middle of what it does."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pykcm.admin.items import encode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_export_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing of it stays: what is unfinished holds tickets as well."""
    folder = tmp_path / "exports"
    folder.mkdir()
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        command = [sys.executable, "-m", "pykcm.admin.cli.main", "--socket", str(path), "export", "--plain"]
        with subprocess.Popen([*command, str(folder / "tickets")]) as exporting:
            try:
                server, _ = listening.accept()
                with server:
                    server.sendall(encode({"item": {"count": 1}}))
                    deadline = time.monotonic() + 30
                    while not any(folder.iterdir()):
                        assert time.monotonic() < deadline
                        time.sleep(0.01)
                    exporting.send_signal(number)
                    assert exporting.wait(30) == 128 + number
            finally:
                exporting.kill()
    assert list(folder.iterdir()) == []
