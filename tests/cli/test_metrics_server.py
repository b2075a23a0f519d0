"""The HTTP server of `pykcmctl metrics --listen`: pages, bounds, and a daemon that is down."""

import asyncio
import errno
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pykcm.cli import metrics_server
from pykcm.cli.metrics_server import MetricsServer, bound, is_listen_address
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.sockets.passed import ListenError
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE
from tests.control.controlling import Controlling
from tests.control.parsing import parsed
from tests.server.asking import Server
from tests.server.waiting import until


class Daemon:
    """The daemon: it answers with `stats` or raises `error`, once `may_answer` is set."""

    def __init__(self, stats: dict[str, Any]) -> None:
        self.stats = stats
        self.error: Exception | None = None
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def ask(self) -> dict[str, Any]:
        self.asked += 1
        assert self.may_answer.wait(20)
        if self.error is not None:
            raise self.error
        return {**self.stats, "ccaches": self.asked}


class Listening:
    """A server at a Unix socket."""

    def __init__(self, server: MetricsServer, daemon: Daemon, path: Path) -> None:
        self.server = server
        self.daemon = daemon
        self.path = path

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers by lower-case name, and the body."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(request)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        assert status.startswith("HTTP/1.1 ")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body

    async def get(self, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        return await self.ask(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


Scenario = Callable[[Listening], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def daemon(runner: asyncio.Runner) -> Daemon:
    """A daemon with the statistics of a real one."""
    server = Server(runner, MemoryStore())
    server.ask_as(1000).initialize(b"1000", ALICE)
    (stats,) = Controlling(server).ask("stats")
    return Daemon(stats)


@asynccontextmanager
async def listening(where: str, daemon: Daemon) -> AsyncIterator[MetricsServer]:
    with bound(where) as sockets:
        server = MetricsServer(sockets, daemon.ask)
        server.start()
        try:
            yield server
        finally:
            server.close()
            await until(lambda: not server.open)


@pytest.fixture
def play(runner: asyncio.Runner, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Plays a scenario."""
    monkeypatch.setattr(metrics_server, "_INTERVAL", 0.0)
    path = tmp_path / "metrics.sock"

    async def played(scenario: Scenario) -> None:
        async with listening(f"unix:{path}", daemon) as server:
            await asyncio.wait_for(scenario(Listening(server, daemon, path)), 20)

    def play_and_look(scenario: Scenario) -> None:
        try:
            runner.run(played(scenario))
        finally:
            daemon.may_answer.set()
        assert not path.exists()

    return play_and_look


def test_metrics_are_openmetrics_text(play: Play) -> None:
    """Prometheus's parser takes the page."""

    async def scenario(pages: Listening) -> None:
        status, headers, body = await pages.get("/metrics")
        assert status == 200
        assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert int(headers["content-length"]) == len(body)
        assert headers["connection"] == "close"
        names = {family.name for family in parsed(body.decode())}
        assert {"pykcm_request_duration_seconds", "pykcm_commit_failures"} <= names
        assert (await pages.get("/metrics?all=1"))[0] == 200

    play(scenario)


def test_head_is_get_without_the_body(play: Play) -> None:
    """HEAD has the headers of GET."""

    async def scenario(pages: Listening) -> None:
        status, headers, body = await pages.get("/health", "HEAD")
        assert (status, headers["content-length"], body) == (200, "3", b"")

    play(scenario)


def test_each_scrape_gets_an_answer_made_after_it_came(play: Play) -> None:
    """No answer is kept for a later scrape."""

    async def scenario(pages: Listening) -> None:
        for asked in (1, 2, 3):
            assert f"\npykcm_ccaches {asked}\n".encode() in (await pages.get("/metrics"))[2]

    play(scenario)


def test_scrapes_that_wait_share_the_next_answer(play: Play) -> None:
    """While the daemon is asked, all that come wait for one more answer, which is made for all of them."""

    async def scenario(pages: Listening) -> None:
        pages.daemon.may_answer.clear()
        first = asyncio.ensure_future(pages.get("/metrics"))
        await until(lambda: pages.daemon.asked == 1)
        others = [asyncio.ensure_future(pages.get("/metrics")) for _ in range(10)]
        await until(lambda: sum(each.has_asked for each in pages.server.open) == 11)
        pages.daemon.may_answer.set()
        assert b"\npykcm_ccaches 1\n" in (await first)[2]
        for each in others:
            assert b"\npykcm_ccaches 2\n" in (await each)[2]
        assert pages.daemon.asked == 2

    play(scenario)


def test_the_daemon_is_asked_ten_times_a_second_at_most(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that scrapes without a pause does not keep the daemon busy."""
    waited = []
    really = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await really(0)

    async def scenario(pages: Listening) -> None:
        monkeypatch.setattr(metrics_server, "_INTERVAL", 1000.0)
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "sleep", sleep)
            await pages.get("/health")
            await pages.get("/health")
        assert 900 < waited[-1] <= 1000

    play(scenario)


def test_a_scraper_that_leaves_does_not_take_the_answer_from_the_others(play: Play) -> None:
    """The request to the daemon goes on for those that still wait."""

    async def scenario(pages: Listening) -> None:
        pages.daemon.may_answer.clear()
        _, leaving = await asyncio.open_unix_connection(str(pages.path))
        leaving.write(b"GET /health HTTP/1.1\r\n\r\n")
        await until(lambda: pages.daemon.asked == 1)
        staying = asyncio.ensure_future(pages.get("/health"))
        await until(lambda: sum(each.has_asked for each in pages.server.open) == 2)
        next(iter(pages.server.open)).abort()
        await until(lambda: len(pages.server.open) == 1)
        pages.daemon.may_answer.set()
        assert (await staying)[0] == 200
        leaving.close()

    play(scenario)


def test_health_names_the_failing_part(play: Play) -> None:
    """ok, or the name of the part that fails and nothing else."""

    async def scenario(pages: Listening) -> None:
        status, _, body = await pages.get("/health")
        assert (status, body) == (200, b"ok\n")
        pages.daemon.stats["failing"] = "store"
        status, _, body = await pages.get("/health")
        assert (status, body) == (503, b"store\n")

    play(scenario)


@pytest.mark.parametrize("target", ["/metrics", "/health"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "pykcmd does not run"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "pykcmd does not run"),
        (PermissionError(errno.EACCES, "Permission denied"), "docs/metrics.md"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "does not answer within"),
        (BlockingIOError(errno.EAGAIN, "Try again"), "does not answer within"),
        (ConnectionError("the daemon has ended the connection"), "has ended the connection"),
        (ControlError(ErrorCode.PERMISSION, "only root may use it"), "only root may use it"),
    ],
)
def test_a_daemon_that_does_not_answer_is_503_with_the_reason(
    play: Play, target: str, error: Exception, text: str
) -> None:
    """The next scrape is answered as soon as the daemon is back."""

    async def scenario(pages: Listening) -> None:
        pages.daemon.error = error
        status, _, body = await pages.get(target)
        assert status == 503
        assert text in body.decode()
        assert body.decode().count("\n") == 1
        pages.daemon.error = None
        assert (await pages.get(target))[0] == 200

    play(scenario)


def test_an_error_in_pykcm_is_500_and_logged(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """The page says where to look, and nothing of the error."""

    async def scenario(pages: Listening) -> None:
        pages.daemon.error = ValueError("secret")
        status, _, body = await pages.get("/metrics")
        assert status == 500
        assert b"secret" not in body

    play(scenario)
    assert "a scrape failed by an error in pykcm" in caplog.text


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /../metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 505),
        (b"GET /metrics HTTP/one\r\n\r\n", 400),
        (b"get /metrics HTTP/1.1\r\n\r\n", 405),
        (b"\r\n\r\n", 400),
        (b"\0\0\0\x04\2\0\0\0\r\n\r\n", 400),
        (b"GET /metrics\xff HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"x" * 8192, 431),
        (b"x" * 9000, 431),
    ],
)
def test_other_requests_get_an_error(play: Play, request_head: bytes, status: int) -> None:
    """The next request is served."""

    async def scenario(pages: Listening) -> None:
        assert (await pages.ask(request_head))[0] == status
        assert (await pages.get("/health"))[0] == 200

    play(scenario)


def test_405_names_the_allowed_methods(play: Play) -> None:
    """As HTTP demands."""

    async def scenario(pages: Listening) -> None:
        assert (await pages.get("/metrics", "DELETE"))[1]["allow"] == "GET, HEAD"

    play(scenario)


def test_a_request_may_come_byte_by_byte(play: Play) -> None:
    """Its sender may close its side after it."""

    async def scenario(pages: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(pages.path))
        for byte in b"GET /health HTTP/1.0\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
        assert (await reader.read()).endswith(b"\r\n\r\nok\n")
        writer.close()

    play(scenario)


def test_a_connection_without_a_request_is_closed_in_time(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of a request has come."""
    monkeypatch.setattr(metrics_server, "_PATIENCE", 0.05)

    async def scenario(pages: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(pages.path))
        writer.write(b"GET /metr")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: not pages.server.open)

    play(scenario)


def test_the_oldest_idle_connection_gives_way(play: Play) -> None:
    """There are sixteen connections at most: for one more, the oldest that has not asked is closed."""

    async def scenario(pages: Listening) -> None:
        idle = []
        for _ in range(16):
            idle.append(await asyncio.open_unix_connection(str(pages.path)))
            await until(lambda: len(pages.server.open) == len(idle))
        for oldest in range(3):
            assert (await pages.get("/health"))[0] == 200
            with suppress(ConnectionResetError):
                assert await idle[oldest][0].read() == b""
            await until(lambda: len(pages.server.open) == 15)
            idle.append(await asyncio.open_unix_connection(str(pages.path)))
            await until(lambda: len(pages.server.open) == 16)
        for reader, writer in idle[3:]:
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok\n")
        for _, writer in idle:
            writer.close()

    play(scenario)


def test_no_connection_that_has_asked_gives_way(play: Play) -> None:
    """Where all sixteen have asked and wait for their answer, one more is closed at once."""

    async def scenario(pages: Listening) -> None:
        pages.daemon.may_answer.clear()
        asking = [asyncio.ensure_future(pages.get("/health")) for _ in range(16)]
        await until(lambda: sum(each.has_asked for each in pages.server.open) == 16)
        reader, writer = await asyncio.open_unix_connection(str(pages.path))
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        pages.daemon.may_answer.set()
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 16

    play(scenario)


def test_owner_and_group_may_connect(play: Play) -> None:
    """A Unix socket has mode 0660."""

    async def scenario(pages: Listening) -> None:
        assert stat.S_IMODE(pages.path.stat().st_mode) == 0o660

    play(scenario)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_loopback_port_is_served(runner: asyncio.Runner, daemon: Daemon, host: str) -> None:
    """A port that another program has is an error that says so."""
    address = host.strip("[]")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        try:
            taken.bind((address, 0))
        except OSError:
            pytest.skip(f"there is no {address} here")
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ListenError, match=f"--listen .*{port}: Address already in use; another program"),
            bound(f"{host}:{port}"),
        ):
            pass

    async def scenario() -> None:
        async with listening(f"{host}:{port}", daemon):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok\n")
            writer.close()

    runner.run(scenario())


@pytest.mark.parametrize("where", ["unix:/run/m.sock", "127.0.0.1:9464", "[::1]:65535", "127.0.0.1:1"])
def test_listen_takes_local_addresses(where: str) -> None:
    """A Unix socket, or a port of the loopback interface."""
    assert is_listen_address(where)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "0.0.0.0:9464",
        ":9464",
        "9464",
        "[::]:9464",
        "10.0.0.1:9464",
        "localhost:9464",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:\u0661",
        "127.0.0.1:80\n",
        "127.0.0.1.example.test:80",
        "::1:9464",
        "/run/m.sock",
        "unix:m.sock",
        "unix:/a\0b",
        f"unix:/{'x' * 107}",
    ],
)
def test_listen_takes_no_other_address(where: str) -> None:
    """No other machine may connect, as nothing asks who a client is."""
    assert not is_listen_address(where)
