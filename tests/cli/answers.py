"""A daemon that answers one request of pykcmctl, and answers with hostile texts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pykcm.cli.client import ControlClient
from pykcm.control.frames import encode


@contextmanager
def answering(path: Path, *messages: object, at_end: bool = False) -> Iterator[ControlClient]:
    """A client whose daemon answers one request with these messages, immediately or after all items."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            accepted, _ = listening.accept()
            # The client may have closed the connection, or never connected.
            with accepted, suppress(OSError):
                while at_end and accepted.recv(1 << 16):
                    pass
                accepted.sendall(b"".join(map(encode, messages)))
                while accepted.recv(1 << 16):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield ControlClient(path)
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join(60)
            path.unlink()


# Names that act on a terminal, table or reader: escape sequences in 7 and 8 bits, newlines, tabs, changes
# of direction, invisible characters, invalid UTF-8, and markup of rich.
HOSTILE = [
    b"\x1b]0;title\x07\x1b[2J",
    b"\xc2\x9b31m \xc2\x85",
    b"a\nimported\troot\t0\r",
    "\u202e\u2066desrever\u2069 \u200b\u2028\u2029\u3164".encode(),
    b"\xff\xfe\x00\x7f",
    b"\xed\xa0\x80 \xf4\x90\x80\x80",
    b"[red]x[/red] [link=http://example.test]y[/link] :smile:",
    b"\\x1b[31m \\n %s {0}",
]


TEXTS = [name.decode("utf-8", "surrogateescape") for name in HOSTILE] + ["\ud800 \udfff"]


def items(*values: object, **summary: object) -> list[object]:
    return [*({"item": value} for value in values), {"end": summary}]


def sendable(text: str) -> str:
    """The text as the daemon can send it: lone surrogates are replaced."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def list_answer(*texts: str) -> list[object]:
    """The answer to `list` with two ccaches for each text."""
    rows = [{"ccache": _row(text)} for text in texts for _ in range(2)]
    return items(*rows, ccaches=len(rows), users=1, size=20)


def _row(text: str) -> dict[str, object]:
    return {
        "uid": 4_000_000_000,
        "name": text.encode("utf-8", "surrogatepass"),
        "uuid": bytes(16),
        "principal": sendable(text),
        "default": False,
        "current_default": False,
        "tickets": 1,
        "size": 10,
        "expires": 1,
        "tgt_expires": 1,
        "renew_till": None,
        "label": sendable(text),
        "last_renewal": None,
    }
