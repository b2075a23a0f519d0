"""The client of the control socket, with a server that is not pykcmd."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pykcm.cli.client import ControlClient
from pykcm.control.frames import encode
from pykcm.control.messages import ControlError
from tests.full_queue import LIMIT, connect_to_full_queue, full_queue


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"\xff" * 4, "is not pykcmd"),
        (bytes(4), "is not pykcmd"),
        (b"\0\0\0\4\x81\xa1\xff\0", "of another version|is not pykcmd"),
        (b"\0\0\0\1\xc1", "is not pykcmd"),
        (b"\0\1\0\0\x81\xa4item" + b"\x91" * (65536 - 6), "is not pykcmd"),
        (encode([1]), "of another version"),
        (encode({"item": [bytes(1 << 20)]}), "of another version"),
        (encode({"item": {"credential": [0] * (1 << 20)}}), "of another version"),
    ],
)
def test_answer_of_other_server_is_an_error(tmp_path: Path, answer: bytes, message: str) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        asked = ControlClient(path).ask("list")
        server, _ = listening.accept()
        sending = threading.Thread(target=send_all, args=(server, answer))
        sending.start()
        with pytest.raises(ControlError, match=message):
            list(asked)
        sending.join(60)


def send_all(server: socket.socket, answer: bytes) -> None:
    # The client closes the connection after an invalid answer.
    with server, suppress(OSError):
        server.sendall(answer)


@pytest.mark.parametrize("answer", [b"", encode({"item": 1}), encode({"item": 1})[:3]])
def test_incomplete_answer_is_a_timeout(tmp_path: Path, answer: bytes) -> None:
    """An answer that is not complete within the time limit raises TimeoutError."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        asked = ControlClient(path, patience=0.05).ask("list")
        server, _ = listening.accept()
        with server:
            server.sendall(answer)
            with pytest.raises(TimeoutError):
                list(asked)


@pytest.mark.parametrize("patience", [None, LIMIT])
def test_connecting_waits_while_the_queue_is_full(tmp_path: Path, patience: float | None) -> None:
    """A client waits for a place in the daemon's queue of connections, with and without a time limit."""
    client = ControlClient(tmp_path / "control.sock", patience=patience)
    with full_queue(tmp_path / "control.sock") as listening:
        connect_to_full_queue(listening, lambda: client.ask("list")).close()


def test_connecting_to_a_full_queue_ends_at_the_time_limit(tmp_path: Path) -> None:
    """If the queue stays full, TimeoutError is raised."""
    path = tmp_path / "control.sock"
    with full_queue(path), pytest.raises(TimeoutError):
        ControlClient(path, patience=0.05).ask("list")
