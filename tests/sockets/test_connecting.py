"""Connecting to a server within a time limit."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.sockets.connecting import connect
from tests.full_queue import LIMIT, connect_to_full_queue, full_queue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_connect_sets_the_timeout(path: Path, timeout: float | None) -> None:
    """The returned socket has the time limit as its timeout."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with connect(path, timeout) as sock:
            assert sock.gettimeout() == timeout
            assert sock.getpeername() == str(path)


@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_connect_waits_while_the_queue_is_full(path: Path, timeout: float | None) -> None:
    """It returns when the server accepts the connection before it."""
    with full_queue(path) as listening:
        connect_to_full_queue(listening, lambda: connect(path, timeout)).close()


@pytest.mark.parametrize("timeout", [0, 0.000_000_1, 0.05])
def test_connect_ends_at_the_time_limit(path: Path, timeout: float) -> None:
    """If the queue stays full, TimeoutError is raised, also for the shortest limits."""
    with full_queue(path), pytest.raises(TimeoutError) as caught:
        connect(path, timeout)
    assert caught.value.strerror == f"the server accepted no connection within {timeout:g} s"


@pytest.fixture
def interrupted() -> Iterator[threading.Event]:
    """Interrupt the system calls of this process with a signal each 10 ms; is set after the first signal."""
    event = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: event.set())
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    yield event
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_signals_do_not_end_or_prolong_connect(path: Path, interrupted: threading.Event) -> None:
    """A signal handler that interrupts connect() neither makes it succeed nor starts the time limit again."""
    began = time.monotonic()
    with full_queue(path), pytest.raises(TimeoutError):
        connect(path, 0.2)
    assert interrupted.is_set()
    assert 0.2 <= time.monotonic() - began < LIMIT


def test_failed_connect_closes_its_socket(path: Path) -> None:
    """An error is raised, and no descriptor stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        connect(path, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
