"""A TCP proxy between a host and a PostgreSQL server, which cuts connections in the middle of a commit.

It follows the frontend's messages as far as it has to know which bytes are a commit: the messages from one
Sync to the next one, of which one executes a statement that notes the commit's id.
"""

import asyncio
import enum
import threading
from collections.abc import Awaitable
from typing import Any, TypeVar

from tests.ports import free_port

T = TypeVar("T")

# Of the statements that begin a commit.
_COMMIT = b"INSERT INTO pykcm.commits (id, made, uids)"

_HEADER_SIZE = 5
_CHUNK = 65536


class Cut(enum.Enum):
    """Where the next commit's connection is cut."""

    BEFORE = "before the server has any of it"
    MIDDLE = "after half of it"
    SENT = "after it was sent"
    ANSWER = "before its answer"
    SILENCE = "without its answer, and kept open"


class Proxy:
    """Listens on `port` of 127.0.0.1, and passes everything on to `target`, in a thread.

    `cuts`: how many commits were cut.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.cuts = 0
        self._target = target
        self._next: Cut | None = None
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(self._listen())
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def cut_next(self, cut: Cut) -> None:
        """Cut the next commit."""
        self._loop.call_soon_threadsafe(setattr, self, "_next", cut)

    def cut_all(self) -> None:
        """Cut all connections, whatever they do."""
        self._call(self._cut_all())

    def refuse(self) -> None:
        """Cut all connections, and accept none until `accept`."""
        self._call(self._close())

    def accept(self) -> None:
        """Accept connections again."""
        self._server = self._call(self._listen())

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: "Awaitable[T]") -> T:
        async def run() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _cut_all(self) -> None:
        for link in list(self._links):
            link.cut()

    async def _close(self) -> None:
        self._server.close()
        await self._cut_all()
        await asyncio.gather(*[link.ended.wait() for link in self._links])

    def take_cut(self) -> Cut | None:
        """A commit begins: whether and where it is to be cut."""
        cut, self._next = self._next, None
        self.cuts += cut is not None
        return cut

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), (server_reader, server_writer))
        self._links.add(link)
        try:
            await link.run()
        finally:
            link.cut()
            self._links.discard(link)
            link.ended.set()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """A connection of a host's, and the one to the server."""

    def __init__(self, proxy: Proxy, host: _Streams, server: _Streams) -> None:
        self._proxy = proxy
        self._host = host
        self._server = server
        self._cut: Cut | None = None
        self._commits: set[bytes] = set()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Pass everything on until one side ends."""
        tasks: list[asyncio.Task[Any]] = [
            asyncio.ensure_future(self._pass_requests()),
            asyncio.ensure_future(self._pass_answers()),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        for _, writer in (self._host, self._server):
            writer.transport.abort()

    async def _pass_requests(self) -> None:
        reader, (_, writer) = self._host[0], self._server
        # The start of a connection has no type.
        first = await reader.readexactly(4)
        writer.write(first + await reader.readexactly(int.from_bytes(first) - 4))
        together = b""
        is_commit = False
        while True:
            head = await reader.readexactly(_HEADER_SIZE)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            together += head + body
            is_commit |= self._begins_commit(head[:1], body)
            # Parse, Bind, Describe, Execute and Close wait for what ends them.
            if head[:1] not in b"PBDEC":
                cut = self._proxy.take_cut() if is_commit else None
                if await self._send(together, writer, cut):
                    return
                together, is_commit = b"", False

    def _begins_commit(self, kind: bytes, body: bytes) -> bool:
        """Whether the message executes the statement of a commit: by its text, or by its name."""
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            if _COMMIT in rest:
                self._commits.add(name)
                return True
            self._commits.discard(name)
        return kind == b"B" and body.split(b"\0")[1] in self._commits

    async def _send(self, data: bytes, writer: asyncio.StreamWriter, cut: Cut | None) -> bool:
        """Send to the server; returns whether the connection ends here."""
        if cut is Cut.BEFORE:
            return True
        if cut is Cut.ANSWER or cut is Cut.SILENCE:
            self._cut = cut
        writer.write(data[: len(data) // 2] if cut is Cut.MIDDLE else data)
        if cut is Cut.MIDDLE or cut is Cut.SENT:
            await writer.drain()
            # An abort would throw away what is not sent yet.
            writer.write_eof()
            return True
        return False

    async def _pass_answers(self) -> None:
        reader, (_, writer) = self._server[0], self._host
        while data := await reader.read(_CHUNK):
            if self._cut is Cut.ANSWER:
                return
            if self._cut is not Cut.SILENCE:
                writer.write(data)
