"""A server whose queue of connections is full."""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# In seconds, for a loaded machine. A wait that reaches it has failed.
LIMIT = 60.0


@contextmanager
def full_queue(path: Path) -> Iterator[socket.socket]:
    """Listen at `path` with a queue for one connection, which is taken; yields the listening socket."""
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(os.fspath(path))
        listening.listen(0)
        listening.settimeout(LIMIT)
        first.connect(os.fspath(path))
        yield listening


def connect_to_full_queue(listening: socket.socket, connect: Callable[[], T]) -> T:
    """Return the result of `connect`, which must wait until the connection before it is accepted."""
    with ThreadPoolExecutor(1) as executor:
        connecting = executor.submit(connect)
        done, _ = wait([connecting], timeout=0.05)
        with listening.accept()[0], listening.accept()[0]:
            result = connecting.result(LIMIT)
    assert not done, "it did not wait for a place in the queue"
    return result
