"""The daemon's event loop under asyncio: timers, tasks, threads, signals and transports beside readers."""

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from pykcm.sockets.event_loop import EventLoop
from tests.sockets.test_event_loop import LIMIT, loop, pair, run_until

__all__ = ["loop", "pair"]


@pytest.mark.parametrize("way", ["call_soon", "call_later", "call_at", "create_task", "future"])
def test_work_that_a_reader_gives_to_asyncio_is_done(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket], way: str
) -> None:
    """Calls, timers, tasks and futures of a reader do not wait for the next event."""
    one, other = pair
    done = asyncio.Event()
    future = loop.create_future()
    future.add_done_callback(lambda _: done.set())

    async def task() -> None:
        done.set()

    def read() -> None:
        other.recv(1)
        if way == "call_soon":
            loop.call_soon(done.set)
        elif way == "call_later":
            loop.call_later(0.001, done.set)
        elif way == "call_at":
            loop.call_at(loop.time() + 0.001, done.set)
        elif way == "create_task":
            tasks.append(loop.create_task(task()))
        else:
            future.set_result(None)

    tasks: list[asyncio.Task[None]] = []
    loop.add_reader(other.fileno(), read)
    one.send(b"a")
    run_until(loop, done)


def test_stop_in_a_reader_stops_the_loop(loop: EventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    loop.add_reader(other.fileno(), loop.stop)
    one.send(b"a")
    loop.run_forever()
    loop.remove_reader(other.fileno())


def test_timers_are_called_while_readers_are_always_ready(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Readers that always have something to do delay no timer."""
    one, other = pair
    one.send(b"a")
    calls = 0

    def ready() -> None:
        nonlocal calls
        calls += 1

    loop.add_reader(other.fileno(), ready)
    while calls <= 10:
        loop.run_until_complete(asyncio.sleep(0.01))


def test_threads_and_signals_wake_the_loop(loop: EventLoop) -> None:
    """A loop that waits without a timer is woken by a thread's call, and by a signal."""
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(loop.stop))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert loop.remove_signal_handler(signal.SIGUSR1)


def test_transports_work_beside_readers(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """Streams of asyncio are served by the same loop, while readers are called."""
    one, other = pair
    path = tmp_path / "socket"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(100_000))
        await writer.drain()
        writer.close()

    async def talk() -> bytes:
        server = await asyncio.start_unix_server(echo, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(bytes(100_000))
        got = await reader.readexactly(100_000)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return got

    # Ready in each iteration.
    one.send(b"a")
    loop.add_reader(other.fileno(), lambda: None)
    assert loop.run_until_complete(asyncio.wait_for(talk(), LIMIT)) == bytes(100_000)


def test_sockets_of_asyncio_work_beside_readers(loop: EventLoop) -> None:
    """A descriptor that asyncio has watched may be closed, and be another socket's afterwards."""

    async def talk() -> None:
        for _ in range(3):
            one, other = socket.socketpair()
            one.setblocking(False)
            other.setblocking(False)
            loop.call_soon(other.send, b"a")
            assert await asyncio.wait_for(loop.sock_recv(one, 1), LIMIT) == b"a"
            # More than the kernel takes at once.
            sending = loop.create_task(loop.sock_sendall(one, bytes(1_000_000)))
            got = 0
            while got < 1_000_000:
                got += len(await asyncio.wait_for(loop.sock_recv(other, 1_000_000), LIMIT))
            await sending
            assert not loop.remove_reader(other.fileno())
            one.close()
            other.close()

    loop.run_until_complete(talk())
