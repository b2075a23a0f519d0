"""The client of the control socket, with a server that is not pykcmd."""

import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pykcm.cli.client import ControlClient
from pykcm.control.frames import encode
from pykcm.control.messages import ControlError


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\xff" * 4, "no pykcmd"),
        (bytes(4), "no pykcmd"),
        (b"\0\0\0\4\x81\xa1\xff\0", "of another version|no pykcmd"),
        (b"\0\0\0\1\xc1", "no pykcmd"),
        (b"\0\1\0\0\x81\xa4item" + b"\x91" * (65536 - 6), "no pykcmd"),
        (encode([1]), "of another version"),
        (encode({"item": [bytes(1 << 20)]}), "of another version"),
        (encode({"item": {"credential": [0] * (1 << 20)}}), "of another version"),
    ],
)
def test_answer_of_other_server_is_an_error(tmp_path: Path, answer: bytes, said: str) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        asked = ControlClient(path).ask("list")
        server, _ = listening.accept()
        sending = threading.Thread(target=send_all, args=(server, answer))
        sending.start()
        with pytest.raises(ControlError, match=said):
            list(asked)
        sending.join(20)


def send_all(server: socket.socket, answer: bytes) -> None:
    # A client that has seen enough closes the connection.
    with server, suppress(OSError):
        server.sendall(answer)


@pytest.mark.parametrize("answer", [b"", encode({"item": 1}), encode({"item": 1})[:3]])
def test_a_patient_client_gives_up_when_its_time_is_over(tmp_path: Path, answer: bytes) -> None:
    """However much of the answer has come, the rest is not waited for without end."""
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


def test_a_patient_client_does_not_wait_for_a_full_backlog(tmp_path: Path) -> None:
    """A daemon that accepts nothing keeps nobody waiting."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening, ExitStack() as at_end:
        listening.bind(str(path))
        listening.listen(0)

        def fill_backlog() -> None:
            for _ in range(10):
                at_end.callback(ControlClient(path, patience=1000).ask("list").close)

        with pytest.raises(BlockingIOError):
            fill_backlog()
