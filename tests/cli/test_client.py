"""The client of the control socket, with a server that is not pykcmd."""

import socket
from pathlib import Path

import pytest

from pykcm.cli.client import ControlClient
from pykcm.control.items import encode
from pykcm.control.messages import ControlError


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"\xff\xff", "no pykcmd"), (b"\xa1\x61\xff\x00", "no pykcmd"), (encode([1]), "of another version")],
)
def test_answer_of_other_server_is_an_error(tmp_path: Path, answer: bytes, said: str) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        asked = ControlClient(path).ask("list")
        server, _ = listening.accept()
        with server:
            server.sendall(answer)
            with pytest.raises(ControlError, match=said):
                list(asked)
