"""A process that serves metrics over HTTP, and requests for its pages."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .activation import Notifications
from .daemon import LIMIT, ROOT

Address = str | tuple[str, int]


def get(address: Address, target: str) -> tuple[int, str]:
    """The status and body of a page."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


@contextmanager
def serving(
    folder: Path, argv: Sequence[str], wrapper: Sequence[str] = (), pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves metrics; it is ready, and SIGTERM ends it in order."""
    notifications = Notifications(folder / "metrics-notify")
    process = subprocess.Popen(
        [*wrapper, *argv],
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(notifications.path),
        },
        cwd="/",
        pass_fds=pass_fds,
    )
    try:
        assert notifications.next()["READY"] == "1"
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        assert notifications.next()["STOPPING"] == "1"
    finally:
        process.kill()
        process.wait(LIMIT)
        notifications.close()
        notifications.path.unlink()
