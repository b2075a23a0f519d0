"""Users of the control socket who are not root."""

import asyncio
import logging
import os
import socket

import pytest

from pykcm.control.frames import encode
from pykcm.control.messages import request
from pykcm.peer.access import RequestAccess
from tests.control.listening import LIST, Listening, asked_as, connected_as, decoded
from tests.server.waiting import until


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
async def test_other_user_is_refused(listening: Listening, caplog: pytest.LogCaptureFixture) -> None:
    """Another UID is refused, whatever the socket's mode; the log has a limited number of lines."""
    caplog.set_level(logging.WARNING)
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as sock:
            os.seteuid(20001)
            try:
                sock.connect(str(listening.path))
            finally:
                os.seteuid(0)
            reader, writer = await asyncio.open_unix_connection(sock=sock.dup())
            writer.write(LIST)
            (answer,) = decoded(await reader.read())
            writer.close()
        assert answer["error"] == {"code": "permission", "message": "only root may use it"}
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["control socket: UID 20001 refused: only root may use it"] * 10


METRICS_USER = 20004
STATS = encode(request("stats", {}))


def uid_of(user: str) -> int | None:
    return {"pykcm-metrics": METRICS_USER}.get(user)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
async def test_user_may_make_only_requests_that_name_it(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    """The user pykcm-metrics may make the request stats, and does not learn of others."""
    caplog.set_level(logging.WARNING)
    listening.controls.access = RequestAccess({0}, uid_of)
    item, end = await asked_as(METRICS_USER, listening.path, STATS)
    assert item["item"]["version"]
    assert end == {"end": {}}
    others = sorted(listening.controls.requests.keys() - {"stats"})
    for name in [*others, "launch", "\n"]:
        asked = encode(request(name, {}))
        (answer,) = await asked_as(METRICS_USER, listening.path, asked)
        assert answer["error"]["code"] == "permission"
        assert "only root may make the request" in answer["error"]["message"]
        assert answer["error"]["message"].endswith("(this user may make: stats)")
    for name in others:
        (answer,) = await asked_as(20001, listening.path, encode(request(name, {})))
        assert answer["error"] == {"code": "permission", "message": "only root may use it"}
    (answer,) = await asked_as(20001, listening.path, STATS)
    assert answer["error"]["code"] == "permission"
    assert f"control socket: UID {METRICS_USER} refused: only root may make the request" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
async def test_missing_user_gives_nobody_its_requests(listening: Listening) -> None:
    """Without a user pykcm-metrics, no other UID may make its request."""
    listening.controls.access = RequestAccess({0}, lambda _: None)
    for uid in (METRICS_USER, 65534):
        (answer,) = await asked_as(uid, listening.path, STATS)
        assert answer["error"] == {"code": "permission", "message": "only root may use it"}
    assert "end" in (await listening.ask(STATS))[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
async def test_other_users_have_few_connections_and_short_requests(listening: Listening) -> None:
    """Other users have 16 connections, and their requests have at most 1,024 bytes."""
    listening.controls.access = RequestAccess({0}, uid_of)
    waiting = []
    for _ in range(16):
        waiting.append(await connected_as(METRICS_USER, listening.path))
        await until(lambda: len(listening.controls.open) == len(waiting))
    (answer,) = await asked_as(METRICS_USER, listening.path, STATS)
    assert answer["error"]["code"] == "busy"
    assert "end" in (await listening.ask(STATS))[-1]
    for _, writer in waiting:
        writer.close()
    await until(lambda: not listening.controls.open)
    too_large = encode(request("stats", {"x": "x" * 1024}))
    (answer,) = await asked_as(METRICS_USER, listening.path, too_large)
    assert (answer["error"]["code"], answer["error"]["message"][-11:]) == ("malformed", " 1024 bytes")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
async def test_other_users_do_not_keep_the_daemon_awake(listening: Listening) -> None:
    """Other users' connections do not count for responder_idle_timeout."""
    listening.controls.access = RequestAccess({0}, uid_of)
    listening.connections.start_timer()
    _, writer = await connected_as(METRICS_USER, listening.path)
    await until(lambda: listening.controls.open)
    await until(lambda: listening.idle)
    writer.close()
    await until(lambda: not listening.controls.open)
    _, writer = await asyncio.open_unix_connection(str(listening.path))
    await until(lambda: listening.controls.open)
    assert not listening.connections.are_idle
    writer.close()
    await until(lambda: listening.connections.are_idle)
