"""The connections of `pykcmctl metrics --listen`: addresses, and bounds on time and number."""

import asyncio
import socket
import stat

import pytest

from pykcm.cli import metrics_server
from pykcm.cli.metrics_server import bound, is_listen_address
from pykcm.sockets.passed import ListenError
from tests.cli.scraping import GET_HEALTH, Connection, Daemon, Pages, serving


async def test_request_may_come_byte_by_byte(pages: Pages) -> None:
    """A request may come byte by byte, and its sender may close its side after it."""
    connection = await pages.connect()
    for byte in b"GET /health HTTP/1.0\r\n\r\n":
        connection.send(bytes([byte]))
        await asyncio.sleep(0)
    connection.send_end()
    assert (await connection.answer()).endswith(b"\r\n\r\nok\n")


async def test_connection_without_a_complete_request_is_closed_in_time(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is closed in time, even if a part of a request has come."""
    monkeypatch.setattr(metrics_server, "_PATIENCE", 0.05)
    connection = await pages.connect()
    connection.send(b"GET /metr")
    assert await connection.answer() == b""
    await pages.until_open(0)


async def test_oldest_idle_connection_gives_way(pages: Pages) -> None:
    """Of at most sixteen connections, the oldest without a request is closed for a new one."""
    idle = []
    for number in range(16):
        idle.append(await pages.connect())
        await pages.until_open(number + 1)
    for oldest in range(3):
        assert (await pages.get("/health"))[0] == 200
        assert await idle[oldest].answer() == b""
        await pages.until_open(15)
        idle.append(await pages.connect())
        await pages.until_open(16)
    for connection in idle[3:]:
        connection.send(GET_HEALTH)
        assert (await connection.answer()).endswith(b"ok\n")


async def test_connection_with_a_request_does_not_give_way(pages: Pages) -> None:
    """If all sixteen connections have sent a request and wait, a new one is closed immediately."""
    pages.daemon.may_answer.clear()
    asking = [asyncio.ensure_future(pages.get("/health")) for _ in range(16)]
    await pages.until_asked(16)
    assert await (await pages.connect()).answer() == b""
    pages.daemon.may_answer.set()
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 16


async def test_owner_and_group_may_connect(pages: Pages) -> None:
    """A Unix socket has mode 0660."""
    assert stat.S_IMODE(pages.path.stat().st_mode) == 0o660


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_loopback_port_is_served(daemon: Daemon, host: str) -> None:
    """A loopback port is served; one that another program uses is an error that says so."""
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
    async with serving(f"{host}:{port}", daemon):
        connection = Connection(*await asyncio.open_connection(address, port))
        connection.send(GET_HEALTH)
        assert (await connection.answer()).endswith(b"ok\n")


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
    """No other machine may connect, because clients are not authenticated."""
    assert not is_listen_address(where)
