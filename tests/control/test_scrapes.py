"""metrics_listen: /metrics and /health over HTTP, and whatever else may come there."""

import asyncio
import errno
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from pykcm.control import scrapes as scrapes_module
from pykcm.control.scrapes import Scrapes
from pykcm.server.listener import ListenError
from pykcm.store.interface import StoreError
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE
from tests.control.controlling import Controlling
from tests.control.parsing import parsed
from tests.server.asking import Server
from tests.server.waiting import until


class Listening:
    """The pages of a service of its own, at a Unix socket."""

    def __init__(self, server: Server, scrapes: Scrapes, path: Path) -> None:
        self.server = server
        self.scrapes = scrapes
        self.path = path

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, and body."""
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


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Both event loops in turn."""
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


@asynccontextmanager
async def listening(server: Server, path: Path) -> AsyncIterator[Listening]:
    scrapes = Scrapes(f"unix:{path}", Controlling(server).administration)
    scrapes.start()
    try:
        yield Listening(server, scrapes, path)
    finally:
        scrapes.close()
        await until(lambda: not scrapes.open)


@pytest.fixture
def play(loop_runner: asyncio.Runner, tmp_path: Path) -> Play:
    """Plays a scenario, on each event loop in turn."""
    server = Server(loop_runner, MemoryStore())
    server.ask_as(1000).initialize(b"1000", ALICE)

    async def played(scenario: Scenario) -> None:
        async with listening(server, tmp_path / "metrics.sock") as pages:
            await asyncio.wait_for(scenario(pages), 20)

    def play_and_look(scenario: Scenario) -> None:
        loop_runner.run(played(scenario))
        assert not (tmp_path / "metrics.sock").exists()

    return play_and_look


def test_metrics(play: Play) -> None:
    """Prometheus takes what it is given."""

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


def test_head(play: Play) -> None:
    """HEAD is answered like GET, without the body."""

    async def scenario(pages: Listening) -> None:
        status, headers, body = await pages.get("/health", "HEAD")
        assert (status, headers["content-length"], body) == (200, "3", b"")

    play(scenario)


def test_a_flood(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks again and again is given the same answer, and KCM's clients do not wait for it."""
    monkeypatch.setattr(scrapes_module, "_FRESH", 1000.0)

    async def scenario(pages: Listening) -> None:
        counted = 0
        really = pages.server.store.count_ccaches

        async def count() -> int:
            nonlocal counted
            counted += 1
            return await really()

        pages.server.store.count_ccaches = count  # type: ignore[method-assign]
        for target in ("/health", "/metrics"):
            answers = await asyncio.gather(*(pages.get(target) for _ in range(10)))
            assert all(answer == answers[0] for answer in answers)
        assert counted == 2

    play(scenario)


def test_health(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """ok, or the name of the part that fails and nothing else."""
    monkeypatch.setattr(scrapes_module, "_FRESH", 0.0)

    async def scenario(pages: Listening) -> None:
        status, _, body = await pages.get("/health")
        assert (status, body) == (200, b"ok\n")

        async def fail() -> int:
            raise StoreError("input/output error", errno.EIO)

        pages.server.store.count_ccaches = fail  # type: ignore[method-assign]
        status, _, body = await pages.get("/health")
        assert (status, body) == (503, b"store\n")

    play(scenario)


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /../metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"get /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", 400),
        (b"\0\0\0\x04\2\0\0\0\r\n\r\n", 400),
        (b"GET /metrics\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"x" * 8192, 431),
        (b"x" * 9000, 431),
    ],
)
def test_other_requests(play: Play, request_head: bytes, status: int) -> None:
    """Whatever else is asked gets an error, and the next one is served."""

    async def scenario(pages: Listening) -> None:
        assert (await pages.ask(request_head))[0] == status
        assert (await pages.get("/health"))[0] == 200

    play(scenario)


def test_what_may_be_done_is_told(play: Play) -> None:
    """405 names the methods that there are."""

    async def scenario(pages: Listening) -> None:
        assert (await pages.get("/metrics", "DELETE"))[1]["allow"] == "GET, HEAD"

    play(scenario)


def test_in_pieces(play: Play) -> None:
    """The request may come byte by byte, and its sender may close its side behind it."""

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


def test_one_that_asks_nothing(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing is asked is closed when its time is over."""
    monkeypatch.setattr(scrapes_module, "_PATIENCE", 0.05)

    async def scenario(pages: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(pages.path))
        writer.write(b"GET /metr")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: not pages.scrapes.open)

    play(scenario)


def test_the_oldest_idle_connection_gives_way(play: Play) -> None:
    """There are sixteen connections at most: for one more, the oldest that has not asked is closed."""

    async def scenario(pages: Listening) -> None:
        idle = []
        for _ in range(16):
            idle.append(await asyncio.open_unix_connection(str(pages.path)))
            await until(lambda: len(pages.scrapes.open) == len(idle))
        for oldest in range(3):
            assert (await pages.get("/health"))[0] == 200
            with suppress(ConnectionResetError):
                assert await idle[oldest][0].read() == b""
            await until(lambda: len(pages.scrapes.open) == 15)
            idle.append(await asyncio.open_unix_connection(str(pages.path)))
            await until(lambda: len(pages.scrapes.open) == 16)
        for reader, writer in idle[3:]:
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok\n")
        for _, writer in idle:
            writer.close()

    play(scenario)


def test_no_connection_that_has_asked_gives_way(play: Play) -> None:
    """Where all sixteen have asked and wait for their answer, one more is closed at once."""

    async def scenario(pages: Listening) -> None:
        may_answer = asyncio.Event()
        really = pages.server.store.count_ccaches

        async def count() -> int:
            await may_answer.wait()
            return await really()

        pages.server.store.count_ccaches = count  # type: ignore[method-assign]
        asking = [asyncio.ensure_future(pages.get("/health")) for _ in range(16)]
        await until(lambda: sum(each.has_asked for each in pages.scrapes.open) == 16)
        reader, writer = await asyncio.open_unix_connection(str(pages.path))
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        may_answer.set()
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 16

    play(scenario)


def test_the_sockets_mode(play: Play) -> None:
    """Its owner and group may connect, and nobody else."""

    async def scenario(pages: Listening) -> None:
        assert stat.S_IMODE(pages.path.stat().st_mode) == 0o660

    play(scenario)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_tcp(loop_runner: asyncio.Runner, host: str) -> None:
    """A port of the loopback interface does as well; one that is taken is an error that says so."""
    server = Server(loop_runner, MemoryStore())

    async def scenario() -> None:
        administration = Controlling(server).administration
        address = host.strip("[]")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as taken:
            try:
                taken.bind((address, 0))
            except OSError:
                pytest.skip(f"there is no {address} here")
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(ListenError, match=f"metrics_listen .*{port}: Address already in use"):
                Scrapes(f"{host}:{port}", administration)
        scrapes = Scrapes(f"{host}:{port}", administration)
        scrapes.start()
        try:
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok\n")
            writer.close()
        finally:
            scrapes.close()
            await until(lambda: not scrapes.open)

    loop_runner.run(scenario())
