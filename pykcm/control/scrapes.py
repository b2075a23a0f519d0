"""/metrics and /health over HTTP, for a Prometheus or a monitor on this machine: as little of it as will do.

Whoever scrapes is no client: the daemon is idle all the same.
"""

import asyncio
import errno
import logging
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

from pykcm.control.calls import MOST_SCRAPES, Administration
from pykcm.control.openmetrics import CONTENT_TYPE, openmetrics
from pykcm.control.statistics import failing_part, gather
from pykcm.logs import LimitedLog
from pykcm.server.acceptor import Acceptor, TransportReception
from pykcm.server.listener import BACKLOG, BoundSocket, ListenError

log = logging.getLogger(__name__)

# Lines that whoever reaches metrics_listen can cause.
_FAULTS = LimitedLog(log, "scrapes that failed by an error in pykcm", 10)

_LARGEST_HEAD = 8 * 1024

# In seconds: so long an answer is as good as a new one. Where it is a port everybody may ask.
_FRESH = 1.0

# In seconds, from the connection to the last byte of the answer.
_PATIENCE = 10.0

_UNIX = "unix:"

_REQUEST_LINE = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.[01]", re.ASCII)
_PLAIN = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class _Page(NamedTuple):
    """An answer, and when it was made."""

    made: float
    status: int
    text: str
    kind: str


# Why there is no socket, and the way out.
_NO_ADDRESS_FAMILY = (
    "pykcm.service has no network: give it one with the drop-in in docs/metrics.md, or use a Unix socket"
)
_WAYS_OUT = {
    errno.EAFNOSUPPORT: _NO_ADDRESS_FAMILY,
    # A seccomp filter with SystemCallErrorNumber=EPERM.
    errno.EPERM: _NO_ADDRESS_FAMILY,
    errno.EACCES: "choose a port from 1024 on; on SELinux hosts see docs/metrics.md",
    errno.EADDRINUSE: "another program listens there: stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine does not have the address: choose 127.0.0.1 or a Unix socket",
}
_WAY_OUT_OF_A_PATH = "choose a path in a folder that the daemon may write to (see docs/metrics.md)"


class Scrapes:
    """Listens at `where`, as `metrics_listen` has it.

    Raises ListenError, which says what to do, and OSError.
    """

    def __init__(self, where: str, administration: Administration) -> None:
        self.administration = administration
        # The oldest first.
        self.open: dict[Scrape, None] = {}
        self._pages: dict[bytes, _Page] = {}
        self._making = asyncio.Lock()
        self._bound: BoundSocket | None = None
        self._acceptor: Acceptor | None = None
        if where.startswith(_UNIX):
            # The daemon's own group may read, too: a scraper need not be root.
            try:
                self._bound = BoundSocket(Path(where.removeprefix(_UNIX)), 0o660)
            except ListenError as error:
                raise ListenError(f"metrics_listen: {error}; {_WAY_OUT_OF_A_PATH}") from error
            self.socket = self._bound.socket
        else:
            self.socket = _tcp_socket(where)

    def start(self) -> None:
        """Serve those who connect; raises OSError."""
        try:
            self.socket.listen(BACKLOG)
            self._acceptor = Acceptor(self.socket, TransportReception(lambda: Scrape(self)))
            self._acceptor.begin()
        except BaseException:
            self.close()
            raise

    def admit(self, scrape: "Scrape") -> bool:
        """Count a connection in. At the limit the oldest one that has not asked anything gives way.

        False where there is none: then there is no room.
        """
        if len(self.open) >= MOST_SCRAPES:
            idle = next((each for each in self.open if not each.has_asked), None)
            if idle is None:
                return False
            del self.open[idle]
            idle.abort()
        self.open[scrape] = None
        return True

    async def page(self, target: bytes) -> "_Page":
        """What is at `/metrics` or `/health`."""
        async with self._making:
            page = self._pages.get(target)
            now = time.monotonic()
            if page is None or page.made <= now - _FRESH:
                page = self._pages[target] = await self._make(target, now)
            return page

    async def _make(self, target: bytes, now: float) -> "_Page":
        if target == b"/metrics":
            return _Page(now, 200, openmetrics(await gather(self.administration)), CONTENT_TYPE)
        failing = await failing_part(self.administration)
        return _Page(now, 503, f"{failing}\n", _PLAIN) if failing else _Page(now, 200, "ok\n", _PLAIN)

    def close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()
        if self._bound is not None:
            self._bound.close()
        else:
            self.socket.close()
        for scrape in list(self.open):
            scrape.abort()


def _tcp_socket(where: str) -> socket.socket:
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    listening: socket.socket | None = None
    try:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        # Two may be bound to a port, and only one may listen.
        listening.listen(BACKLOG)
    except OSError as error:
        if listening is not None:
            listening.close()
        way_out = _WAYS_OUT.get(error.errno or 0, "choose another address, or a Unix socket")
        raise ListenError(f"metrics_listen {where}: {error.strerror or error}; {way_out}") from error
    return listening


class Scrape(asyncio.Protocol):
    """One request and its answer, and then the end."""

    def __init__(self, scrapes: Scrapes) -> None:
        self._scrapes = scrapes
        self._head = b""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._scrapes.admit(self):
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._scrapes.open.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    @property
    def has_asked(self) -> bool:
        """Whether the request is complete."""
        return self._task is not None

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._task is not None or self._transport.is_closing():
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end > _LARGEST_HEAD or (end < 0 and len(self._head) > _LARGEST_HEAD):
            self._answer(431, "the request's head is too large\n")
        elif end >= 0:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    def eof_received(self) -> bool:
        # Some close their side when they have asked.
        return self.has_asked

    async def _serve(self) -> None:
        match = _REQUEST_LINE.fullmatch(self._head.partition(b"\r\n")[0])
        if match is None:
            self._answer(400, "not an HTTP/1 request\n")
            return
        method, target = match[1], match[2].partition(b"?")[0]
        if target not in {b"/metrics", b"/health"}:
            self._answer(404, "here are /metrics and /health\n")
        elif method not in {b"GET", b"HEAD"}:
            self._answer(405, "GET or HEAD\n", "Allow: GET, HEAD\r\n")
        else:
            try:
                _, status, text, kind = await self._scrapes.page(target)
            except Exception:  # noqa: BLE001 - logged with its traceback
                _FAULTS.write(
                    logging.ERROR, None, "a scrape failed by an error in pykcm", with_traceback=True
                )
                status, text, kind = 500, "an error in pykcm; its log says more\n", _PLAIN
            self._answer(status, text, kind=kind, has_body=method == b"GET")

    def _answer(
        self, status: int, text: str, more: str = "", *, kind: str = _PLAIN, has_body: bool = True
    ) -> None:
        body = text.encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
            f"Content-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\n"
            f"{more}"
            "Connection: close\r\n\r\n"
        )
        with suppress(RuntimeError):
            self._transport.write(head.encode() + (body if has_body else b""))
        self._transport.close()
