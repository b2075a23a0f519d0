"""A database of a test's own, and three hosts on it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import HeimdalClient, MitClient
from tests.e2e.conftest import USER, client_files, public_folder, started, watched
from tests.e2e.kdc import Kdc
from tests.store.postgresql.server import bin_folder

from .hosts import KEY, Host, by_socket, by_tcp
from .servers import Server

# Clients of one host: MIT's or Heimdal's, as the ordinary user.
MitOf = Callable[[Host], MitClient]
HeimdalOf = Callable[[Host], HeimdalClient]


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that the server's user can enter."""
    if bin_folder() is None:
        pytest.skip("there is no PostgreSQL (Debian: postgresql)")
    with tempfile.TemporaryDirectory(prefix="pykcm-postgresql-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that runs, with the schema."""
    with server_folder() as folder:
        server = Server(folder / "a")
        server.start()
        try:
            server.make_database(KEY)
            yield server
        finally:
            server.end()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends all that is entered in it after the test, the last first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def servers(stack: ExitStack) -> list[Server]:
    """A primary with the schema, and its synchronous standby."""
    folder = stack.enter_context(server_folder())
    primary, standby = (Server(folder / name, is_replicated=True) for name in "ab")
    for server in (primary, standby):
        stack.callback(server.end)
    primary.start()
    standby.copy_from(primary)
    standby.start()
    primary.await_standby()
    primary.make_database(KEY)
    return [primary, standby]


@pytest.fixture
def hosts(server: Server) -> Iterator[list[Host]]:
    """Three hosts that run: one reaches the server by its Unix socket, two by TCP."""
    with public_folder() as folder, ExitStack() as stack:
        conninfos = [by_socket(server), by_tcp(server.port), by_tcp(server.port)]
        yield [
            stack.enter_context(started(stack.enter_context(watched(Host(folder / f"host{n}", conninfo)))))
            for n, conninfo in enumerate(conninfos, 1)
        ]


@pytest.fixture
def mit_of(kdc: Kdc) -> MitOf:
    """MIT's clients of a host."""

    def clients(host: Host) -> MitClient:
        krb5_conf, trace = client_files(kdc, host.folder)
        return MitClient(USER, host.socket_path, krb5_conf, kdc.keytab, trace)

    return clients


@pytest.fixture
def heimdal_of(kdc: Kdc, _heimdal_works: None) -> HeimdalOf:
    """Heimdal's clients of a host."""

    def clients(host: Host) -> HeimdalClient:
        krb5_conf, trace = client_files(kdc, host.folder)
        return HeimdalClient(USER, host.socket_path, krb5_conf, kdc.keytab, trace)

    return clients
