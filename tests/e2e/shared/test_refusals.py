"""Databases that a host cannot use, wholly or in part: each is named with a way out, and changes nothing."""

import errno
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code
from pykcm.store.postgresql.sealing import SharedKey
from tests.builders import ALICE, BOB, credential_bytes
from tests.disk.mounts import mount_point
from tests.e2e.conftest import OTHER, USER, public_folder, started, watched
from tests.e2e.crashes import code_of
from tests.e2e.daemon import effective_uid
from tests.e2e.kdc import find_libfaketime, other_clock
from tests.e2e.waiting import wait_until

from .conftest import server_folder
from .hosts import KEY, RAW_KEY, Host, by_socket, by_tcp
from .servers import DATABASE, ROLE, Server

_NAME = b"%d" % USER
_OTHER_KEY = bytes(32)
_MOST_REFUSED = 100

# Sealed, it cannot be compressed.
_LARGE = credential_bytes(ticket=bytes(20_000))

# All that hosts store.
_ROWS = "SELECT * FROM pykcm.collections, pykcm.secrets ORDER BY 1, 3, 4, 5"

MakeHost = Callable[..., Host]


@pytest.fixture
def make_host(stack: ExitStack, server: Server) -> MakeHost:
    """Makes a host that is not started yet."""
    folder = stack.enter_context(public_folder())

    def make(conninfo: str | None = None, raw_key: bytes = RAW_KEY, options: str = "") -> Host:
        path = folder / f"host{len(list(folder.iterdir()))}"
        host = Host(path, conninfo or by_socket(server), raw_key=raw_key, options=options)
        return stack.enter_context(watched(host))

    return make


@pytest.fixture
def host(stack: ExitStack, make_host: MakeHost) -> Host:
    """A host that works, with one ccache."""
    host = stack.enter_context(started(make_host(options="store_timeout = 20\n")))
    with effective_uid(USER), KcmClient(host.socket_path) as kcm:
        kcm.replace(_NAME, 0, ALICE, [credential_bytes()])
    return host


@pytest.fixture
def kcm(stack: ExitStack, host: Host) -> KcmClient:
    """The user's connection to it."""
    with effective_uid(USER):
        return stack.enter_context(KcmClient(host.socket_path))


def rows(server: Server) -> list[tuple[object, ...]]:
    return server.query(_ROWS, DATABASE)


def assert_refused(host: Host, *messages: str) -> None:
    """The daemon does not start, and `store check` fails; both say why, and what to do."""
    refused = host.refusal()
    status, output = host.check()
    assert (refused.code, status) == (1, 1)
    for message in messages:
        assert message in refused.message
        assert message in output


@pytest.mark.usefixtures("host")
def test_host_with_another_key_does_not_start(server: Server, make_host: MakeHost) -> None:
    """It names both keys by their ids, and changes nothing; the other host goes on."""
    before = rows(server)
    other = make_host(raw_key=_OTHER_KEY)
    ids = SharedKey(_OTHER_KEY).id.hex(), KEY.id.hex()
    assert_refused(other, *ids, "give all hosts the same key")
    assert rows(server) == before


def test_host_with_another_key_that_started_before_the_database_changes_nothing(
    stack: ExitStack, server: Server, host: Host, kcm: KcmClient, make_host: MakeHost
) -> None:
    """Without a look at the database it starts, but reads and writes nothing of the others'."""
    before = rows(server)
    server.stop()
    other = stack.enter_context(started(make_host(raw_key=_OTHER_KEY, options="store_timeout = 20\n")))
    server.start()
    with effective_uid(USER), KcmClient(other.socket_path) as kcm_of_other:
        wait_until(lambda: code_of(kcm_of_other.get_cache_uuid_list) not in (0, errno.ETIMEDOUT))
        assert code_of(lambda: kcm_of_other.initialize(_NAME, BOB)) in (errno.EIO, errno.EACCES)
    with KcmClient(other.socket_path) as kcm_of_root:
        assert code_of(lambda: kcm_of_root.initialize(b"0", BOB)) == errno.EACCES
    assert SharedKey(_OTHER_KEY).id.hex() in other.log
    assert "give it theirs" in other.log
    assert rows(server) == before
    wait_until(lambda: code_of(lambda: kcm.get_principal(_NAME)) == 0)


@pytest.mark.parametrize(
    ("version", "way_out"),
    [(0, "run `pykcmctl store upgrade`"), (99, "install the newer pykcm that has made it")],
)
def test_schema_of_another_version_is_not_used(
    server: Server, make_host: MakeHost, version: int, way_out: str
) -> None:
    """A host whose pykcm does not know the schema's version does not start."""
    server.query(f"UPDATE pykcm.schema SET version = {version}", DATABASE)
    assert_refused(make_host(), f"version {version}; this pykcm knows 1", way_out)


@pytest.mark.parametrize("is_restarted", [False, True], ids=["while it runs", "while it is down"])
def test_schema_that_was_upgraded_under_a_running_host_ends_its_service(
    server: Server, host: Host, kcm: KcmClient, is_restarted: bool
) -> None:
    """It answers EIO and says why, and changes nothing; under its own schema it serves again by itself."""
    if is_restarted:
        server.stop()
        server.start()
    server.query("UPDATE pykcm.schema SET version = 2", DATABASE)
    before = rows(server)
    for request in (
        lambda: kcm.get_principal(_NAME),
        lambda: kcm.replace(_NAME, 0, BOB, [credential_bytes()]),
        lambda: kcm.destroy(_NAME),
    ):
        assert code_of(request) == errno.EIO
    assert "the schema has version 2 now, and this pykcm knows 1: install the newer pykcm" in host.log
    assert rows(server) == before
    status, output = host.check()
    assert status == 1
    assert "install the newer pykcm" in output
    server.query("UPDATE pykcm.schema SET version = 1", DATABASE)
    assert kcm.get_principal(_NAME) == ALICE
    kcm.destroy(_NAME)


def test_missing_schema_is_named(server: Server, make_host: MakeHost) -> None:
    """A database without the schema is no reason to make one."""
    server.query("DROP SCHEMA pykcm CASCADE", DATABASE)
    assert_refused(make_host(), "schema: there is none", "run `pykcmctl store init`")
    assert server.query("SELECT 1 FROM pg_namespace WHERE nspname = 'pykcm'", DATABASE) == []


@pytest.mark.parametrize(
    ("revoked", "missing"),
    [
        ("INSERT ON pykcm.secrets", "INSERT on pykcm.secrets"),
        ("UPDATE ON pykcm.collections", "UPDATE on pykcm.collections"),
        ("INSERT, UPDATE ON pykcm.commits", "INSERT on pykcm.commits, UPDATE on pykcm.commits"),
        ("SELECT ON pykcm.schema", f"the role {ROLE} may not read it"),
        ("USAGE ON SCHEMA pykcm", f"the role {ROLE} may not read it"),
    ],
)
def test_missing_grant_is_named_at_the_start(
    server: Server, make_host: MakeHost, revoked: str, missing: str
) -> None:
    """A host whose role lacks a privilege does not start, and says which one."""
    server.query(f"REVOKE {revoked} FROM {ROLE}", DATABASE)
    assert_refused(make_host(), missing, "run the GRANTs of `pykcmctl store init --sql --role NAME`")


@pytest.mark.parametrize(
    "revoked", ["INSERT ON pykcm.secrets", "DELETE ON pykcm.secrets", "INSERT ON pykcm.commits"]
)
def test_grant_that_is_taken_away_refuses_changes_whole(
    server: Server, host: Host, kcm: KcmClient, revoked: str
) -> None:
    """A change that needs it answers EACCES and does nothing; with the grant it works again."""
    before = rows(server)
    server.query(f"REVOKE {revoked} FROM {ROLE}", DATABASE)
    # It clears the old credential, and writes two new rows.
    replacement = [credential_bytes(ticket=b"new")]
    assert code_of(lambda: _replace_all(kcm, replacement)) == errno.EACCES
    assert "permission denied" in host.log
    assert "prints the GRANTs" in host.log
    assert kcm.get_principal(_NAME) == ALICE
    assert kcm.get_cred_list(_NAME) == [credential_bytes()]
    assert rows(server) == before
    server.query(f"GRANT {revoked} TO {ROLE}", DATABASE)
    _replace_all(kcm, replacement)
    assert kcm.get_cred_list(_NAME + b":new") == replacement


def _replace_all(kcm: KcmClient, credentials: list[bytes]) -> None:
    """One change that writes, clears and deletes rows: a move over a new name."""
    kcm.move_cache(_NAME, _NAME + b":new")
    kcm.replace(_NAME + b":new", 0, BOB, credentials)


def test_full_disk_refuses_changes_only(stack: ExitStack, make_host: MakeHost) -> None:
    """Changes answer ENOSPC and do nothing, reads go on; with free space changes work again."""
    folder = stack.enter_context(server_folder())
    place = stack.enter_context(mount_point(folder / "disk"))
    server = Server(folder / "server")
    stack.callback(server.end)
    server.start()
    disk = server.small_tablespace(place)
    server.make_database(KEY, tablespace="small")
    host = stack.enter_context(started(make_host(by_socket(server))))
    with effective_uid(USER):
        kcm = stack.enter_context(KcmClient(host.socket_path))
    stored = [credential_bytes()]
    kcm.replace(_NAME, 0, ALICE, stored)
    disk.fill(100)
    number = 0
    while not (code := code_of(partial(kcm.replace, _NAME + b":%d" % number, 0, BOB, [_LARGE]))):
        number += 1
    assert code == errno.ENOSPC
    assert "the database's disk is full: make room on it" in host.log
    assert code_of(lambda: kcm.get_principal(_NAME + b":%d" % number)) == Code.FCC_NOFILE
    assert len(kcm.get_cache_uuid_list()) == 1 + number
    assert kcm.get_cred_list(_NAME) == stored
    host.restart()
    with effective_uid(USER):
        kcm = stack.enter_context(KcmClient(host.socket_path))
    assert len(kcm.get_cache_uuid_list()) == 1 + number
    disk.free()
    kcm.replace(_NAME + b":last", 0, BOB, [_LARGE])
    assert len(kcm.get_cache_uuid_list()) == 2 + number


@pytest.mark.usefixtures("several_uids")
def test_full_disk_of_the_write_ahead_log_loses_nothing_acknowledged(
    stack: ExitStack, make_host: MakeHost
) -> None:
    """PostgreSQL crashes: changes answer ETIMEDOUT, other users read on; with free space all is there."""
    folder = stack.enter_context(server_folder())
    place = stack.enter_context(mount_point(folder / "disk"))
    server = Server(folder / "server")
    stack.callback(server.end)
    disk = server.small_wal(place)
    server.start()
    server.make_database(KEY)
    host = stack.enter_context(
        started(make_host(by_socket(server), options="stale_reads = 600\nstore_timeout = 2\n"))
    )
    with effective_uid(USER):
        kcm = stack.enter_context(KcmClient(host.socket_path))
    with effective_uid(OTHER):
        kcm_of_other = stack.enter_context(KcmClient(host.socket_path))
    kcm_of_other.initialize(b"%d" % OTHER, ALICE)
    disk.fill(100)
    number = refused = 0
    code = 0
    # PostgreSQL refuses some changes before it crashes.
    while code in (0, errno.ENOSPC) and refused < _MOST_REFUSED:
        code = code_of(partial(kcm.replace, _NAME + b":%d" % number, 0, BOB, [_LARGE]))
        number += code == 0
        refused += code == errno.ENOSPC
    assert code == errno.ETIMEDOUT
    assert number > 0
    server.await_end()
    assert "No space left on device" in (server.folder / "log").read_text()
    assert kcm_of_other.get_principal(b"%d" % OTHER) == ALICE
    assert code_of(lambda: kcm_of_other.initialize(b"%d:x" % OTHER, BOB)) == errno.ETIMEDOUT
    assert "the database is away" in host.log
    disk.free()
    server.start()
    wait_until(lambda: "the database is back" in host.log)
    for each in range(number):
        assert kcm.get_cred_list(_NAME + b":%d" % each) == [_LARGE]
    # The last change was made completely, or not at all.
    is_made = code_of(lambda: kcm.get_principal(_NAME + b":%d" % number)) == 0
    assert len(kcm.get_cache_uuid_list()) == number + is_made
    kcm.replace(_NAME + b":%d" % number, 0, BOB, [_LARGE])
    assert kcm.get_cred_list(_NAME + b":%d" % number) == [_LARGE]


def test_standby_refuses_changes_until_it_is_promoted(
    stack: ExitStack, servers: list[Server], make_host: MakeHost
) -> None:
    """A host that reaches only a standby says so, shows the ccaches, and answers changes with EROFS."""
    primary, standby = servers
    writer = stack.enter_context(started(make_host(by_tcp(primary.port))))
    with effective_uid(USER), KcmClient(writer.socket_path) as kcm:
        kcm.initialize(_NAME, ALICE)
    # The standby may show it a moment later.
    wait_until(lambda: standby.query("SELECT 1 FROM pykcm.collections", DATABASE))
    reader = make_host(by_tcp(standby.port))
    status, output = reader.check()
    stack.enter_context(started(reader))
    assert status == 1
    for text in (output, reader.log):
        assert "a standby, which only reads" in text
        assert "target_session_attrs=read-write" in text
    with effective_uid(USER):
        kcm = stack.enter_context(KcmClient(reader.socket_path))
    assert kcm.get_principal(_NAME) == ALICE
    assert code_of(lambda: kcm.initialize(_NAME, BOB)) == errno.EROFS
    assert "this server only reads" in reader.log
    assert kcm.get_principal(_NAME) == ALICE
    primary.kill()
    standby.commit_without_standby()
    standby.promote()
    kcm.initialize(_NAME, BOB)
    assert kcm.get_principal(_NAME) == BOB


def test_server_that_comes_to_read_only_refuses_changes_only(
    server: Server, host: Host, kcm: KcmClient
) -> None:
    """Changes answer EROFS and do nothing, reads go on; when it takes changes again, they work."""
    before = rows(server)
    server.set("default_transaction_read_only", "on")
    assert code_of(lambda: kcm.initialize(_NAME, BOB)) == errno.EROFS
    assert "this server only reads" in host.log
    assert kcm.get_principal(_NAME) == ALICE
    assert rows(server) == before
    server.set("default_transaction_read_only", "off")
    wait_until(lambda: code_of(lambda: kcm.initialize(_NAME, BOB)) == 0)
    assert kcm.get_principal(_NAME) == BOB


@pytest.mark.skipif(find_libfaketime() is None, reason="libfaketime is missing")
def test_clock_that_is_off_is_named(stack: ExitStack, make_host: MakeHost) -> None:
    """A host whose clock differs by an hour says so at its start and in `store check`, and serves."""
    host = make_host()
    said = host.ctl.run("store", "check", "--config", str(host.config_path), environment=other_clock(3600))
    assert "synchronize the clocks" in said.output
    assert "-3600." in said.output or "-3599." in said.output
    host.start(environment=other_clock(3600))
    assert "synchronize the clocks of the database and of this host" in host.log
    with effective_uid(USER), KcmClient(host.socket_path) as kcm:
        kcm.initialize(_NAME, ALICE)
    assert host.stop() == 0
