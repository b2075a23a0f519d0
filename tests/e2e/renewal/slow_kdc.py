"""A TCP proxy of a KDC, which delays each request, or holds it until the test lets it go on."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.ports import free_port


class SlowKdc:
    """Listens on `port` of 127.0.0.1; `most` is the largest number of requests at a time so far.

    `delay`: in seconds, for each request. While `gate` is clear, requests are held, and then `held` is set.
    """

    def __init__(self, kdc_port: int, delay: float) -> None:
        self.port = free_port()
        self.delay = delay
        self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()
        self._now = 0
        self._kdc_port = kdc_port
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)
        )
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        self.gate.set()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                writer.write(await self._answer(await _message(reader)))
                await writer.drain()
        finally:
            self._now -= 1
            writer.close()

    async def _answer(self, request: bytes) -> bytes:
        await asyncio.sleep(self.delay)
        if not self.gate.is_set():
            self.held.set()
            await asyncio.to_thread(self.gate.wait)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._kdc_port)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(int.from_bytes(size, "big"))


@contextmanager
def slow_kdc(kdc_port: int, delay: float) -> Iterator[SlowKdc]:
    proxy = SlowKdc(kdc_port, delay)
    try:
        yield proxy
    finally:
        proxy.close()
