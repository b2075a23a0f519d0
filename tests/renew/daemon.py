"""Stands for pykcmd at the control socket: a server of the requests `renewals` and `renewed`."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from pykcm.control.frames import encode

LIMITS = {"item": {"renewals": {"max_renewals": 4, "max_realm_renewals": 2}}}

# In seconds: no test waits for so long unless it fails.
LONG = 60.0


def tgt(number: int, credential: bytes = b"tgt", **more: Any) -> dict[str, Any]:
    """A TGT that is due, as the item of the daemon."""
    now = time.time()
    item = {
        "id": number.to_bytes(16, "big"),
        "uid": 1000 + number,
        "ccache": b"%d" % (1000 + number),
        "client": "alice@PYKCM.TEST",
        "server": "krbtgt/PYKCM.TEST@PYKCM.TEST",
        "realm": b"PYKCM.TEST",
        "credential": credential,
        "kdc_offset": 0,
        "due": now,
        "end": now + 300,
        "renew_until": now + 3600,
        "of_later_version": True,
    }
    return {"item": {"tgt": item | more}}


class Connection:
    """One connection of pykcm-renew, whose request has been read."""

    def __init__(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def send(self, *messages: dict[str, Any]) -> None:
        self._writer.write(b"".join(map(encode, messages)))
        await self._writer.drain()

    async def receive(self) -> dict[str, Any]:
        """Return the next frame."""
        return await read_frame(self._reader)

    async def ended(self) -> bool:
        """Wait until the client closes the connection."""
        return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.close()


class Daemon:
    """The server; `renewals` and `renewed` are connections that wait for the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.renewals: asyncio.Queue[Connection] = asyncio.Queue()
        self.renewed: asyncio.Queue[Connection] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._connections: list[Connection] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def stop(self) -> None:
        """Close the socket and all connections."""
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.close()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            request = await read_frame(reader)
            connection = Connection(request, reader, writer)
            self._connections.append(connection)
            {"renewals": self.renewals, "renewed": self.renewed}[request["request"]].put_nowait(connection)

    async def next_renewals(self) -> Connection:
        """Wait for the request `renewals`, and answer with the limits."""
        connection = await asyncio.wait_for(self.renewals.get(), LONG)
        await connection.send(LIMITS)
        return connection

    async def next_renewed(self) -> Connection:
        return await asyncio.wait_for(self.renewed.get(), LONG)


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any]:
    size = int.from_bytes(await reader.readexactly(4), "big")
    decoded: dict[str, Any] = msgspec.msgpack.decode(await reader.readexactly(size))
    return decoded


@asynccontextmanager
async def running_daemon(path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(path)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()
