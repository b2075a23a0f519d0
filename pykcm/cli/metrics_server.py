"""The HTTP server of `pykcmctl metrics --listen`: /metrics and /health, for Prometheus or a monitor.

It holds no secrets and keeps no answers: each scrape asks the daemon.
"""

import asyncio
import errno
import ipaddress
import logging
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

from pykcm.cli.advice import state_of_daemon
from pykcm.control.messages import ControlError
from pykcm.control.openmetrics import CONTENT_TYPE, openmetrics
from pykcm.logs import LINE_COUNTS, LimitedLog
from pykcm.processes import on_signals
from pykcm.protocol.text import escape_path
from pykcm.sockets.acceptor import Acceptor, TransportReception
from pykcm.sockets.bound_socket import BACKLOG, BoundSocket
from pykcm.sockets.passed import ListenError, listening_socket, passed_descriptors
from pykcm.sockets.systemd import Notifier

log = logging.getLogger(__name__)

# Lines that any process on this machine can cause.
_FAULTS = LimitedLog(log, "scrapes that failed by an error in pykcm", 10)

_LARGEST_HEAD = 8 * 1024
_MOST_CONNECTIONS = 16

# Seconds from the connection to the last byte of the answer.
_PATIENCE = 10.0

# Seconds that the daemon has for one answer. Twice this fits into _PATIENCE, for a scrape that waits first.
PATIENCE_WITH_DAEMON = 4.0

# Seconds between two requests to the daemon. Any process on this machine may scrape, as often as it likes.
_INTERVAL = 0.1

_UNIX = "unix:"

# No other machine may connect, because clients are not authenticated.
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_LISTEN = re.compile(rf"unix:/[^\0]{{1,106}}|(127\.0\.0\.1|\[::1\]):{_PORT}", re.ASCII)
ALLOWED_LISTEN = (
    '"unix:/PATH" (of at most 107 bytes), "127.0.0.1:PORT" or "[::1]:PORT"; '
    "no other address, because clients are not authenticated"
)

_PLAIN = "text/plain; charset=utf-8"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Reasons why there is no listening socket, and what to do.
_NO_NETWORK = "pykcm-metrics.service has no network: let pykcm-metrics.socket listen, or use a Unix socket"
_WAYS_OUT = {
    errno.EAFNOSUPPORT: _NO_NETWORK,
    # A seccomp filter with SystemCallErrorNumber=EPERM.
    errno.EPERM: _NO_NETWORK,
    errno.EACCES: "choose a port from 1024 on",
    errno.EADDRINUSE: "another program listens there: stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine does not have the address: choose 127.0.0.1 or a Unix socket",
}

Stats = Mapping[str, Any]


class Page(NamedTuple):
    """The status, text and content type of an answer."""

    status: int
    text: str
    kind: str = _PLAIN


def is_listen_address(text: str) -> bool:
    """Whether the text is a valid value of `--listen`."""
    return _LISTEN.fullmatch(text) is not None


@contextmanager
def bound(where: str) -> Iterator[list[socket.socket]]:
    """Listen at `where`, a value of `--listen`, until the end of the block; raises ListenError."""
    if not where.startswith(_UNIX):
        with _bind_port(where) as sock:
            yield [sock]
        return
    try:
        # A scraper may connect if it is in the group of the user who starts this.
        at_path = BoundSocket(Path(where.removeprefix(_UNIX)), 0o660)
    except ListenError as error:
        raise ListenError(f"--listen: {error}; choose a path in a folder that you may write to") from error
    try:
        yield [at_path.socket]
    finally:
        at_path.close()


def _bind_port(where: str) -> socket.socket:
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    sock: socket.socket | None = None
    try:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
        # Two sockets may be bound to a port, and only one may listen.
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        way_out = _WAYS_OUT.get(error.errno or 0, "choose another address, or a Unix socket")
        raise ListenError(f"--listen {where}: {error.strerror or error}; {way_out}") from error
    return sock


def sockets_from_systemd() -> list[socket.socket]:
    """The sockets that systemd passed to this process, which may be none. Raises ListenError."""
    sockets = []
    for fd, _ in passed_descriptors():
        sock = listening_socket(fd)
        if sock is None or not _is_local(sock):
            raise ListenError(
                f"descriptor {fd} from LISTEN_FDS does not listen at a Unix socket or a loopback address: "
                "change ListenStream= in pykcm-metrics.socket"
            )
        sockets.append(sock)
    return sockets


def _is_local(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:
        return True
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
    return False


def serve(sockets: Sequence[socket.socket], ask: Callable[[], Stats], notifier: Notifier) -> None:
    """Serve the daemon's statistics until SIGTERM, SIGINT or SIGHUP.

    `ask` gets them from the daemon, in a thread. It raises OSError or ControlError where it does not.
    """
    with asyncio.Runner() as runner, LINE_COUNTS.scheduled(runner.get_loop().call_later):
        runner.run(_serve(sockets, ask, notifier))


async def _serve(sockets: Sequence[socket.socket], ask: Callable[[], Stats], notifier: Notifier) -> None:
    stop = asyncio.Event()
    on_signals(_SIGNALS, lambda _: stop.set())
    server = MetricsServer(sockets, ask)
    server.start()
    status = f"Serving metrics on {', '.join(map(_address_of, sockets))}"
    log.info("%s", status)
    notifier.ready(status)
    await stop.wait()
    notifier.stopping()
    server.close()


def _address_of(sock: socket.socket) -> str:
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return escape_path(address)
    return f"http://[{address[0]}]:{address[1]}" if ":" in address[0] else f"http://{address[0]}:{address[1]}"


class MetricsServer:
    """Answers HTTP requests on listening sockets."""

    def __init__(self, sockets: Sequence[socket.socket], ask: Callable[[], Stats]) -> None:
        self._statistics = _Statistics(ask)
        # The oldest first.
        self.open: dict[Scrape, None] = {}
        self._acceptors = [Acceptor(sock, TransportReception(lambda: Scrape(self))) for sock in sockets]

    def start(self) -> None:
        for acceptor in self._acceptors:
            acceptor.begin()

    def close(self) -> None:
        """Accept no more connections, and close those that are open."""
        for acceptor in self._acceptors:
            acceptor.stop()
        for scrape in list(self.open):
            scrape.abort()

    def admit(self, scrape: "Scrape") -> bool:
        """Add a connection. At the limit, close the oldest one without a complete request.

        Returns False if every open connection has a complete request.
        """
        if len(self.open) >= _MOST_CONNECTIONS:
            idle = next((each for each in self.open if not each.has_asked), None)
            if idle is None:
                return False
            del self.open[idle]
            idle.abort()
        self.open[scrape] = None
        return True

    async def page(self, target: str) -> Page:
        """The page at `/metrics` or `/health`."""
        try:
            stats = await self._statistics.get()
        except ControlError as refusal:
            return Page(503, f"pykcmd does not answer: {refusal.message}\n")
        except OSError as error:
            return Page(503, f"{_why_down(error)}\n")
        if target == "/metrics":
            return Page(200, openmetrics(stats), CONTENT_TYPE)
        failing: str = stats["failing"]
        return Page(503, f"{failing}\n") if failing else Page(200, "ok\n")


def _why_down(error: OSError) -> str:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return (
                f"pykcmd does not run: its control socket cannot be reached ({error.strerror}). Its first "
                f"client starts it; see {state_of_daemon()}"
            )
        case PermissionError():
            return f"pykcmd's control socket cannot be reached ({error.strerror}): see docs/metrics.md"
        case TimeoutError() | BlockingIOError():
            return f"pykcmd does not answer within {PATIENCE_WITH_DAEMON:g} seconds"
        case _:
            return f"pykcmd does not answer: {error.strerror or error}"


class _Statistics:
    """Asks the daemon for its statistics, at most every `_INTERVAL` seconds.

    All waiting scrapes share the next answer. Each scrape gets an answer that is newer than the scrape.
    """

    def __init__(self, ask: Callable[[], Stats]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._asked = -_INTERVAL
        self._next: asyncio.Task[Stats] | None = None

    async def get(self) -> Stats:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._get_next())
            # The scrapes may have gone: asyncio must not log the exception.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._next)

    async def _get_next(self) -> Stats:
        async with self._asking:
            await asyncio.sleep(self._asked + _INTERVAL - time.monotonic())
            self._next = None
            try:
                return await asyncio.to_thread(self._ask)
            finally:
                self._asked = time.monotonic()


class _Head(BaseHTTPRequestHandler):
    """A request's head, parsed. `error` is the status that answers a wrong one, or 0."""

    def __init__(self, head: bytes) -> None:
        # Not the base class's, which reads from a socket and answers.
        self.error = 0
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if not self.parse_request():
            self.error = self.error or 400
        elif self.request_version not in {"HTTP/1.0", "HTTP/1.1"} or not self.path.startswith("/"):
            self.error = 400

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.error = code


class Scrape(asyncio.Protocol):
    """One connection: one request and its answer."""

    def __init__(self, server: MetricsServer) -> None:
        self._server = server
        self._head = b""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.pop(self, None)
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
            self._answer(Page(431, "the request's head is too large\n"))
        elif end >= 0:
            self._task = asyncio.get_running_loop().create_task(self._serve(self._head[: end + 4]))

    def eof_received(self) -> bool:
        # Some clients close their side after the request.
        return self.has_asked

    async def _serve(self, head: bytes) -> None:
        request = _Head(head)
        if request.error:
            self._answer(Page(request.error, "this is no HTTP/1 request\n"))
            return
        target = request.path.partition("?")[0]
        if target not in {"/metrics", "/health"}:
            self._answer(Page(404, "there are /metrics and /health\n"))
        elif request.command not in {"GET", "HEAD"}:
            self._answer(Page(405, "GET or HEAD\n"), "Allow: GET, HEAD\r\n")
        else:
            try:
                page = await self._server.page(target)
            except Exception:  # noqa: BLE001 - logged with its traceback
                _FAULTS.write(
                    logging.ERROR, None, "a scrape failed by an error in pykcm", with_traceback=True
                )
                page = Page(500, "an error in pykcm; the log of pykcm-metrics.service says more\n")
            self._answer(page, has_body=request.command == "GET")

    def _answer(self, page: Page, more_headers: str = "", *, has_body: bool = True) -> None:
        body = page.text.encode()
        head = (
            f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\n"
            f"Content-Type: {page.kind}\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\n"
            f"{more_headers}"
            "Connection: close\r\n\r\n"
        )
        with suppress(RuntimeError):
            self._transport.write(head.encode() + (body if has_body else b""))
        self._transport.close()
