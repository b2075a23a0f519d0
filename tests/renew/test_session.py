"""The session with the daemon: results, lost connections, and a daemon that ends and starts again."""

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pykcm.renew import session as session_module
from pykcm.renew.failures import RenewalError
from pykcm.renew.pool import Pool
from pykcm.renew.session import Session

from .daemon import LONG, Daemon, running_daemon, tgt


class FakePool(Pool):
    """Stands for the pool: an attempt waits for the test if its credential is `wait`."""

    def __init__(self) -> None:
        self.renewed: list[tuple[bytes, int]] = []
        self.cancelled = asyncio.Event()
        self.closed = False

    def close(self) -> None:
        self.closed = True

    async def renew(self, credential: bytes, kdc_offset: int) -> bytes:
        self.renewed.append((credential, kdc_offset))
        if credential == b"wait":
            try:
                await asyncio.sleep(10 * LONG)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if credential == b"refuse":
            raise RenewalError("revoked", -1765328364, "TGT has been revoked", again=False)
        if credential == b"down":
            raise RenewalError("unreachable", -1765328228, "Cannot contact any KDC")
        return credential.upper()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait for a second before each connection."""
    monkeypatch.setattr(session_module, "_RETRY", 0.01)
    monkeypatch.setattr(session_module, "_REFUSED_RETRY", 0.01)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """The daemon's side of the control socket."""
    async with running_daemon(tmp_path / "control.sock") as daemon:
        yield daemon


@pytest.fixture
async def pools(daemon: Daemon, tmp_path: Path) -> AsyncIterator[list[tuple[int, FakePool]]]:
    """A running session; the list has each pool and its size."""
    made: list[tuple[int, FakePool]] = []

    def make(most: int) -> FakePool:
        made.append((most, FakePool()))
        return made[-1][1]

    session = Session(str(daemon.path), str(tmp_path / "kcm.sock"), make)
    running = asyncio.create_task(session.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


Pools = list[tuple[int, FakePool]]


async def test_results_are_handed_back(daemon: Daemon, pools: Pools) -> None:
    """Each TGT is renewed with its offset; the results go back on one connection, as they are ready."""
    renewals = await daemon.next_renewals()
    assert renewals.request == {"version": 1, "request": "renewals", "arguments": {}}
    await renewals.send(tgt(1, b"wait"), tgt(2, b"second", kdc_offset=-3))
    renewed = await daemon.next_renewed()
    assert renewed.request == {"version": 1, "request": "renewed", "arguments": {}}
    assert await renewed.receive() == {"id": (2).to_bytes(16, "big"), "credential": b"SECOND"}
    await renewals.send(tgt(3, b"third"))
    assert await renewed.receive() == {"id": (3).to_bytes(16, "big"), "credential": b"THIRD"}
    ((most, pool),) = pools
    assert most == 4
    assert pool.renewed == [(b"wait", 0), (b"second", -3), (b"third", 0)]


async def test_failure_is_handed_back_with_its_reason(daemon: Daemon, pools: Pools) -> None:
    """The daemon gets the reason, the code, the KDC's words, and whether to try again."""
    renewals = await daemon.next_renewals()
    await renewals.send(tgt(1, b"refuse"))
    renewed = await daemon.next_renewed()
    assert (await renewed.receive())["failure"] == {
        "reason": "revoked",
        "code": -1765328364,
        "message": "TGT has been revoked",
        "again": False,
    }


async def test_unanswered_results_are_sent_again(daemon: Daemon, pools: Pools) -> None:
    """A result that the daemon has not answered goes back again on the next connection, and no other."""
    renewals = await daemon.next_renewals()
    await renewals.send(tgt(1, b"first"))
    renewed = await daemon.next_renewed()
    first = await renewed.receive()
    await renewals.send(tgt(2, b"second"))
    second = await renewed.receive()
    await renewed.send({"item": {"renewed": {"id": first["id"], "result": "renewed"}}})
    renewed.close()
    again = await daemon.next_renewed()
    assert await again.receive() == second
    await again.send({"item": {"renewed": {"id": second["id"], "result": "renewed"}}})
    await renewals.send(tgt(3, b"third"))
    assert (await again.receive())["credential"] == b"THIRD"


async def test_result_that_the_daemon_rejects_is_not_sent_again(daemon: Daemon, pools: Pools) -> None:
    """One result that the daemon cannot read costs its attempt, and holds no other one up."""
    renewals = await daemon.next_renewals()
    await renewals.send(tgt(1, b"first"))
    renewed = await daemon.next_renewed()
    await renewed.receive()
    await renewals.send(tgt(2, b"second"))
    second = await renewed.receive()
    await renewed.send({"error": {"code": "arguments", "message": "not a valid result"}})
    renewed.close()
    assert await (await daemon.next_renewed()).receive() == second


async def test_attempts_end_with_the_connection(daemon: Daemon, pools: Pools) -> None:
    """When the daemon has gone, attempts in progress are given up, and the next daemon is found."""
    renewals = await daemon.next_renewals()
    await renewals.send(tgt(1, b"wait"), tgt(2, b"done"))
    renewed = await daemon.next_renewed()
    await renewed.receive()
    renewals.close()
    (_, pool), *_ = pools
    await asyncio.wait_for(pool.cancelled.wait(), LONG)
    assert pool.closed
    assert await renewed.ended()
    await (await daemon.next_renewals()).send(tgt(1, b"first"))
    assert (await (await daemon.next_renewed()).receive())["credential"] == b"FIRST"
    assert len(pools) == 2


async def test_session_outlives_a_daemon_that_is_away(daemon: Daemon, pools: Pools) -> None:
    """While nobody listens the session goes on, and connects when the daemon is there again."""
    await daemon.next_renewals()
    await daemon.stop()
    await asyncio.sleep(0.1)
    await daemon.start()
    await (await daemon.next_renewals()).send(tgt(1))
    assert (await (await daemon.next_renewed()).receive())["credential"] == b"TGT"


@pytest.mark.parametrize(
    "frame", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x90", b"\0\0"]
)
async def test_malformed_frames_end_the_connection_alone(
    daemon: Daemon, pools: Pools, caplog: pytest.LogCaptureFixture, frame: bytes
) -> None:
    """A frame that is not one of the daemon's ends the connection, and the next one works."""
    renewals = await daemon.next_renewals()
    renewals._writer.write(frame)
    renewals.close()
    await (await daemon.next_renewals()).send(tgt(1))
    assert (await (await daemon.next_renewed()).receive())["credential"] == b"TGT"


async def test_refusal_is_logged_once(daemon: Daemon, pools: Pools, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon's refusal is logged with its words, once, and the request is made again."""
    for _ in range(3):
        connection = await asyncio.wait_for(daemon.renewals.get(), LONG)
        await connection.send({"error": {"code": "busy", "message": "another client renews"}})
    lines = [record.getMessage() for record in caplog.records if "another client" in record.getMessage()]
    assert lines == ["no TGT is renewed meanwhile: busy: another client renews"]


async def test_closed_control_socket_is_logged(
    daemon: Daemon, pools: Pools, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control socket that this user may not use is logged once, and tried again."""
    renewals = await daemon.next_renewals()
    refused = iter([PermissionError(errno.EACCES, os.strerror(errno.EACCES))] * 2)
    connect = asyncio.open_unix_connection

    async def connect_later(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for error in refused:
            raise error
        return await connect(path)

    monkeypatch.setattr(asyncio, "open_unix_connection", connect_later)
    renewals.close()
    await daemon.next_renewals()
    lines = [record.getMessage() for record in caplog.records if "Permission denied" in record.getMessage()]
    assert lines == [f"no TGT is renewed meanwhile: {daemon.path}: Permission denied"]


async def test_result_is_logged_with_the_words_of_the_kdc(
    daemon: Daemon, pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure names the ccache, the reason, the KDC's words and code, and the next attempt."""
    caplog.set_level(logging.INFO)
    renewals = await daemon.next_renewals()
    await renewals.send(tgt(1, b"refuse", end=0), tgt(2, b"down"), tgt(3, b"good"))
    renewed = await daemon.next_renewed()
    answers: list[dict[str, object]] = [
        {"result": "failed", "next_attempt": None},
        {"result": "failed", "next_attempt": 1},
        {"result": "changed"},
    ]
    for answer in answers:
        number = (await renewed.receive())["id"]
        await renewed.send({"item": {"renewed": {"id": number, **answer}}})
    await renewed.send({"end": {}})
    await renewals.send({"end": {"next_due": None}})
    while "no TGT is going to be due" not in caplog.text:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    name = "KCM:{0} of UID {0}: the TGT of alice@PYKCM.TEST "
    first = (
        "was not renewed (revoked): TGT has been revoked (Kerberos error 20); there is no further attempt, "
    )
    assert name.format(1001) + first + "and it ends at 1970-01-01 00:00:00" in caplog.text
    second = "was not renewed (unreachable): Cannot contact any KDC (libkrb5's code -1765328228); the next "
    assert name.format(1002) + second + "attempt is at 1970-01-01 00:00:01" in caplog.text
    third = "was replaced or removed during the renewal, and stays as it is"
    assert name.format(1003) + third in caplog.text


@pytest.fixture
def kcm_socket(tmp_path: Path) -> socket.socket:
    """The KCM socket as systemd holds it: it listens, also without a daemon."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "kcm.sock"))
    sock.listen()
    sock.setblocking(False)
    return sock


async def test_daemon_is_started_when_a_tgt_is_due(
    daemon: Daemon, kcm_socket: socket.socket, pools: Pools
) -> None:
    """After a daemon's end the KCM socket is connected when its next TGT is due, and not before."""
    with kcm_socket:
        renewals = await daemon.next_renewals()
        due = time.time() + 0.5
        await renewals.send({"end": {"next_due": due}})
        await daemon.stop()
        client, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(kcm_socket), LONG)
        client.close()
        # The two clocks of a machine do not run at exactly the same speed.
        assert time.time() >= due - 0.01
        await daemon.start()
        await daemon.next_renewals()


async def test_daemon_is_left_alone_if_nothing_is_going_to_be_due(
    daemon: Daemon, kcm_socket: socket.socket, pools: Pools
) -> None:
    """A daemon that has no TGT to renew is not started."""
    with kcm_socket:
        await (await daemon.next_renewals()).send({"end": {"next_due": None}})
        await daemon.stop()
        await asyncio.sleep(0.3)
        with pytest.raises(BlockingIOError):
            kcm_socket.accept()


async def test_daemon_is_started_once_the_program_starts(
    daemon: Daemon, kcm_socket: socket.socket, tmp_path: Path
) -> None:
    """At first nobody knows what is due: a daemon that does not run is started, and not too often."""
    await daemon.stop()
    session = Session(str(daemon.path), str(tmp_path / "kcm.sock"), lambda _: FakePool())
    running = asyncio.create_task(session.run())
    with kcm_socket:
        accepted = asyncio.get_running_loop().sock_accept(kcm_socket)
        client, _ = await asyncio.wait_for(accepted, LONG)
        client.close()
        await daemon.start()
        await daemon.next_renewals()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_killed_daemon_is_started_again(
    daemon: Daemon, kcm_socket: socket.socket, pools: Pools
) -> None:
    """A daemon that has ended without a word had TGTs to renew, perhaps: it is started again."""
    with kcm_socket:
        (await daemon.next_renewals()).close()
        await daemon.stop()
        client, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(kcm_socket), LONG)
        client.close()
        await daemon.start()


async def test_daemon_is_started_again_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause between two attempts to start the daemon does not last for the error of the clock."""
    now = 2_000_000.0
    monkeypatch.setattr("pykcm.renew.session.time.time", lambda: now)
    path = tmp_path / "kcm.sock"
    connected = asyncio.Event()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    async with await asyncio.start_unix_server(accept, path):
        session = Session(str(tmp_path / "none"), str(path), lambda _: FakePool())
        session._between_wakes = 0.0
        await session._start_daemon_if_due()
        async with asyncio.timeout(20):
            await connected.wait()
        connected.clear()
        now -= 86400
        session._between_wakes = 0.0
        await session._start_daemon_if_due()
        async with asyncio.timeout(20):
            await connected.wait()
