"""A metrics server with a daemon that a test controls, and clients that scrape it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from pykcm.cli.metrics_server import MetricsServer, bound
from tests.server.waiting import LIMIT, until

GET_HEALTH = b"GET /health HTTP/1.1\r\n\r\n"


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
        assert self.may_answer.wait(LIMIT)
        if self.error is not None:
            raise self.error
        return {**self.stats, "ccaches": self.asked}


class Connection:
    """The client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def send_end(self) -> None:
        self._writer.write_eof()

    async def answer(self) -> bytes:
        """Wait until the server closes the connection; return what it sent."""
        answer = b""
        async with asyncio.timeout(LIMIT):
            with suppress(ConnectionResetError):
                answer = await self._reader.read()
        self._writer.close()
        return answer

    def close(self) -> None:
        self._writer.close()


class Pages:
    """A metrics server at a Unix socket, and its daemon."""

    def __init__(self, server: MetricsServer, daemon: Daemon, path: Path) -> None:
        self.server = server
        self.daemon = daemon
        self.path = path

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_unix_connection(str(self.path)))

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers by lower-case name, and the body."""
        connection = await self.connect()
        connection.send(request)
        head, _, body = (await connection.answer()).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        assert status.startswith("HTTP/1.1 ")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body

    async def get(self, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        return await self.ask(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    async def until_open(self, number: int) -> None:
        """Wait until this number of connections is open."""
        await until(lambda: len(self.server.open) == number)

    async def until_asked(self, number: int) -> None:
        """Wait until this number of open connections has sent a request."""
        await until(lambda: sum(each.has_asked for each in self.server.open) == number)


@asynccontextmanager
async def serving(where: str, daemon: Daemon) -> AsyncIterator[MetricsServer]:
    """A metrics server at this address."""
    with bound(where) as sockets:
        server = MetricsServer(sockets, daemon.ask)
        server.start()
        try:
            yield server
        finally:
            daemon.may_answer.set()
            server.close()
            await until(lambda: not server.open)
