"""The daemon's event loop: readers and writers that it calls by itself, beside all that asyncio does."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pykcm.sockets.event_loop import EventLoop

# Long enough for a loaded machine; nothing waits this long when all is right.
LIMIT = 60.0


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        found = runner.get_loop()
        assert isinstance(found, EventLoop)
        yield found


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets, which do not block."""
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    with one, other:
        yield one, other


def run_until(loop: EventLoop, done: asyncio.Event) -> None:
    """Run the loop until `done` is set."""
    loop.run_until_complete(asyncio.wait_for(done.wait(), LIMIT))


def descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def test_reader_is_called_while_bytes_are_unread(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A reader is called again as long as it leaves bytes, and no more once it is removed."""
    one, other = pair
    done = asyncio.Event()
    got: list[bytes] = []

    def read() -> None:
        got.append(other.recv(1))
        if len(got) == 3:
            assert loop.remove_reader(other.fileno())
            done.set()

    loop.add_reader(other.fileno(), read)
    one.send(b"abcd")
    run_until(loop, done)
    loop.run_until_complete(asyncio.sleep(0))
    assert got == [b"a", b"b", b"c"]
    assert not loop.remove_reader(other.fileno())


def test_latest_reader_replaces_the_earlier_one(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Only the reader that was added last is called."""
    one, other = pair
    done = asyncio.Event()
    loop.add_reader(other.fileno(), pytest.fail)

    def read() -> None:
        other.recv(1)
        done.set()

    loop.add_reader(other.fileno(), read)
    one.send(b"a")
    run_until(loop, done)


def test_reader_and_writer_share_a_descriptor(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Reader and writer of one descriptor are called for their own events, and are removed each by itself."""
    one, other = pair
    done = asyncio.Event()
    called: list[str] = []

    def write() -> None:
        called.append("write")
        assert loop.remove_writer(other.fileno())
        one.send(b"a")

    def read() -> None:
        called.append("read")
        other.recv(1)
        done.set()

    loop.add_reader(other.fileno(), read)
    loop.add_writer(other.fileno(), write)
    run_until(loop, done)
    assert called == ["write", "read"]
    assert not loop.remove_writer(other.fileno())
    assert loop.remove_reader(other.fileno())


def test_end_of_the_other_side_is_for_reader_and_writer(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """When the other end closes, both are called, unless the reader has removed the writer."""
    one, other = pair
    called: list[str] = []
    done = asyncio.Event()

    def read() -> None:
        called.append("read")
        if called.count("read") == 2:
            loop.remove_writer(other.fileno())
            loop.remove_reader(other.fileno())
            done.set()

    # Both are ready in the loop's first look at them.
    one.close()
    loop.add_reader(other.fileno(), read)
    loop.add_writer(other.fileno(), lambda: called.append("write"))
    run_until(loop, done)
    assert called == ["read", "write", "read"]


def test_events_of_a_descriptor_that_nobody_watches_any_more_are_ignored(loop: EventLoop) -> None:
    """A reader may remove other readers whose events have been taken from the kernel already."""
    pairs = [socket.socketpair() for _ in range(3)]
    done = asyncio.Event()
    called: list[int] = []

    def read(number: int) -> None:
        called.append(number)
        for _, other in pairs:
            loop.remove_reader(other.fileno())
            other.close()
        done.set()

    for number, (one, other) in enumerate(pairs):
        loop.add_reader(other.fileno(), lambda number=number: read(number))  # type: ignore[misc]
        one.send(b"a")
    run_until(loop, done)
    assert len(called) == 1
    for one, _ in pairs:
        one.close()


def test_exception_of_a_reader_is_reported_and_others_go_on(loop: EventLoop) -> None:
    """The loop's exception handler gets the exception; readers that are ready as well are called."""
    pairs = [socket.socketpair() for _ in range(3)]
    done = asyncio.Event()
    called: set[int] = set()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def read(number: int) -> None:
        pairs[number][1].recv(1)
        called.add(number)
        if len(called) == len(pairs):
            done.set()
        raise ValueError(number)

    for number, (one, other) in enumerate(pairs):
        loop.add_reader(other.fileno(), lambda number=number: read(number))  # type: ignore[misc]
        one.send(b"a")
    run_until(loop, done)
    assert sorted(str(context["exception"]) for context in reported) == ["0", "1", "2"]
    for one, other in pairs:
        loop.remove_reader(other.fileno())
        one.close()
        other.close()


def test_end_of_the_program_in_a_reader_ends_the_loop(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """SystemExit and KeyboardInterrupt are not caught."""
    one, other = pair

    def leave() -> None:
        raise SystemExit(3)

    loop.add_reader(other.fileno(), leave)
    one.send(b"a")
    with pytest.raises(SystemExit):
        loop.run_until_complete(asyncio.sleep(LIMIT))
    loop.remove_reader(other.fileno())


def test_arguments_are_passed_to_readers_and_writers(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    _, other = pair
    done = asyncio.Event()
    got: list[str] = []

    def write(*words: str) -> None:
        got.extend(words)
        loop.remove_writer(other.fileno())
        done.set()

    loop.add_writer(other.fileno(), write, "a", "b")
    run_until(loop, done)
    assert got == ["a", "b"]


def test_ready_reader_costs_one_call_and_no_iteration(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While only readers are ready, asyncio makes no iteration of its loop."""
    one, other = pair
    done = asyncio.Event()
    iterations = 0
    left = 100
    run_once = EventLoop._run_once  # type: ignore[attr-defined]

    def counted(self: EventLoop) -> None:
        nonlocal iterations
        iterations += 1
        run_once(self)

    def read() -> None:
        nonlocal left
        left -= 1
        if not left:
            other.recv(1)
            done.set()

    monkeypatch.setattr(EventLoop, "_run_once", counted)
    loop.add_reader(other.fileno(), read)
    one.send(b"a")
    run_until(loop, done)
    assert iterations <= 10


def test_call_after_readers_comes_after_all_that_are_ready(loop: EventLoop) -> None:
    """It is called once, after every ready reader; an exception of it is reported."""
    pairs = [socket.socketpair() for _ in range(3)]
    done = asyncio.Event()
    calls: list[int | str] = []
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def after() -> None:
        calls.append("after")
        done.set()
        raise ValueError("after")

    def read(number: int) -> None:
        pairs[number][1].recv(1)
        if not calls:
            loop.call_after_readers(after)
        calls.append(number)

    for number, (one, other) in enumerate(pairs):
        loop.add_reader(other.fileno(), lambda number=number: read(number))  # type: ignore[misc]
        one.send(b"a")
    run_until(loop, done)
    assert sorted(each for each in calls if each != "after") == [0, 1, 2]
    assert calls[-1] == "after"
    assert len(calls) == 4
    assert [str(context["exception"]) for context in reported] == ["after"]
    for one, other in pairs:
        loop.remove_reader(other.fileno())
        one.close()
        other.close()


def test_call_after_readers_outside_of_a_reader_comes_soon(loop: EventLoop) -> None:
    """A task that gives such a call does not wait for a reader."""
    done = asyncio.Event()

    async def call() -> None:
        loop.call_after_readers(done.set)

    loop.run_until_complete(call())
    run_until(loop, done)


def test_closed_loop_leaves_no_descriptor() -> None:
    before = descriptors()
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(asyncio.sleep(0))
    assert descriptors() == before
