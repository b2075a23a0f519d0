"""Limits of connections to the control socket: time, memory, number, idleness."""

import asyncio
import socket

import pytest

from pykcm.control import connection as connection_module
from pykcm.control.frames import encode
from pykcm.control.messages import request
from tests.control.listening import LIST, Listening, decoded
from tests.server.waiting import until


async def test_connection_without_a_request_times_out(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends no complete request in time gets an error, and is closed."""
    monkeypatch.setattr(connection_module, "_PATIENCE_WITH_A_REQUEST", 0.05)
    code, message = await listening.error(LIST[:5])
    assert (code, message) == ("malformed", "no complete request in time")


async def test_items_are_made_as_the_client_reads_them(listening: Listening) -> None:
    """A client that does not read causes few items; others are served, and its end is noticed."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(listening.path))
    sock.sendall(encode(request("many", {})))
    produced = listening.notes.produced
    before = -1
    while not produced or len(produced) != before:
        before = len(produced)
        await listening.ask(LIST)
    assert len(produced) < 5000
    sock.close()
    await until(lambda: not listening.controls.open)


async def test_client_with_patience_that_does_not_read_is_given_up(listening: Listening) -> None:
    """A request for whose end others wait is given up if its client reads nothing."""
    reader, writer = await asyncio.open_unix_connection(str(listening.path), limit=1)
    writer.write(encode(request("impatient", {})))
    await until(lambda: listening.notes.endings)
    *_, last = decoded(await reader.read())
    assert last["error"] == {
        "code": "busy",
        "message": "given up: the client read nothing of the answer for 0.05 seconds",
    }
    writer.close()


async def test_frames_are_not_read_before_they_are_taken(listening: Listening) -> None:
    """Frames that no request takes stay packed, and no more are read."""
    _, writer = await listening.begin(encode(1) * 1_000_000)
    await until(lambda: listening.controls.untaken)
    for _ in range(100):
        await listening.ask(LIST)
    assert 0 < listening.controls.untaken <= 512 * 1024
    await listening.controls.finish()
    writer.close()


async def test_untaken_frames_of_all_clients_are_bounded(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that would exceed the common limit of untaken frames is refused."""
    monkeypatch.setattr(connection_module, "_MOST_UNTAKEN", 100_000)
    half = encode(request("for ever", {})) + encode(bytes(120_000))[:60_000]
    first, second = [await asyncio.open_unix_connection(str(listening.path)) for _ in range(2)]
    first[1].write(half)
    await until(lambda: listening.controls.untaken == 60_000)
    second[1].write(half)
    *_, answer = decoded(await second[0].read())
    assert answer["error"]["code"] == "busy"
    assert listening.controls.untaken == 60_000
    for _, writer in (first, second):
        writer.close()
    await until(lambda: not listening.controls.open)
    assert listening.controls.untaken == 0


async def test_administrator_keeps_an_idle_daemon_running(listening: Listening) -> None:
    """The daemon does not end for idleness while an administrator is connected."""
    _, writer = await listening.begin()
    listening.connections.start_timer()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not listening.idle
    writer.close()
    await until(lambda: listening.idle)


async def test_connections_are_limited(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beyond the limit is refused as busy."""
    monkeypatch.setattr(connection_module, "MOST_CONNECTIONS", 2)
    waiting = [await asyncio.open_unix_connection(str(listening.path)) for _ in range(2)]
    await until(lambda: len(listening.controls.open) == 2)
    code, _ = await listening.error(LIST)
    assert code == "busy"
    for _, writer in waiting:
        writer.close()
    await until(lambda: not listening.controls.open)
    assert "end" in (await listening.ask(LIST))[-1]
