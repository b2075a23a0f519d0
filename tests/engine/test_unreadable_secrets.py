"""Secrets that cannot be read: each makes one ccache unavailable, and is kept."""

import asyncio
import errno
import logging

import pytest

from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Tag
from pykcm.store.interface import Store
from pykcm.store.tree import (
    DEFAULT,
    Put,
    Secret,
    ccache_container,
    ccaches_container,
    uid_container,
)
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    credential_bytes,
    principal_bytes,
    refused,
)
from tests.server.asking import Server
from tests.storing import EMBEDDED_STORES, commit_changes, secrets_of

GOOD, BROKEN = b"1000", b"1000:broken"
TGT = credential_bytes(TGS)
CREDENTIALS = [credential_bytes(TGS, second_ticket=b"evidence"), credential_bytes(HTTP) + b"\0\0\0\0"]


@pytest.fixture
def secrets(runner: asyncio.Runner, store: Store) -> list[Secret]:
    """The secrets of UID 1000: the ccaches `1000` and `1000:broken` with two tickets each, and a default."""
    asking = Server(runner, store).ask_as(1000)
    for name in (GOOD, BROKEN):
        asking.replace(name, 0, ALICE, CREDENTIALS)
    asking.set_default_cache(GOOD + b":x")
    return runner.run(secrets_of(store, 1000))


def ccache_secret(secrets: list[Secret]) -> Secret:
    """The secret of the ccache `1000:broken`."""
    (found,) = [s for s in secrets if s.container == ccaches_container(1000) and s.name.endswith(":broken")]
    return found


def credential_secrets(secrets: list[Secret]) -> list[Secret]:
    """The secrets of its credentials."""
    return [secret for secret in secrets if secret.container.endswith(":broken")]


def spoil(runner: asyncio.Runner, store: Store, secret: Secret, value: bytes) -> None:
    runner.run(commit_changes(store, [Put(secret.container, secret.name, value)]))


def assert_one_unavailable(server: Server, secrets: list[Secret]) -> None:
    """Check that only `1000:broken` is unavailable, and that nothing was deleted."""
    asking = server.ask_as(1000)
    (uuid,) = asking.get_cache_uuid_list()
    assert asking.get_cache_by_uuid(uuid) == GOOD
    assert asking.get_cred_list(GOOD) == CREDENTIALS
    assert asking.get_default_cache() == GOOD
    for opcode, rest in [
        (Opcode.GET_PRINCIPAL, b""),
        (Opcode.GET_CRED_LIST, b""),
        (Opcode.GET_CRED_UUID_LIST, b""),
        (Opcode.STORE, TGT),
        (Opcode.INITIALIZE, principal_bytes(BOB)),
        (Opcode.MOVE_CACHE, GOOD + b"\0"),
    ]:
        assert (opcode, *asking.answer(opcode, BROKEN + b"\0" + rest)) == (opcode, errno.EIO, b"")
    with refused(errno.EIO):
        asking.move_cache(GOOD, BROKEN)
    assert len(server.runner.run(secrets_of(server.store, 1000))) == len(secrets)


def assert_destroyed(server: Server) -> None:
    """Check that DESTROY removes the unavailable ccache with all its secrets, and its name is free again."""
    asking = server.ask_as(1000)
    asking.destroy(BROKEN)
    left = server.runner.run(secrets_of(server.store, 1000))
    assert not [secret for secret in left if "broken" in secret.container + secret.name]
    asking.initialize(BROKEN, BOB)
    assert len(server.restarted().ask_as(1000).get_cache_uuid_list()) == 2


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"\xff\0",
        b'{"version": 2, "kdc_offset": 0, "principal": {"type": 1, "realm": "R", "components": []}}',
        b'{"version": 1, "kdc_offset": 0, "principal": {"type": -1, "realm": "R", "components": []}}',
        b'{"version": 1, "kdc_offset": 0, "principal": {"type": 4294967296, "realm": "R", "components": []}}',
        b'{"version": 1, "kdc_offset": 0, "principal": {"type": 1, "realm": "\\ud800", "components": []}}',
        b'{"version": 1, "kdc_offset": 4294967296, "principal": {"type": 1, "realm": "R", "components": []}}',
    ],
    ids=["empty", "cut", "bytes", "version", "type", "type too large", "surrogate", "offset too large"],
)
def test_unreadable_ccache_secret_makes_it_unavailable(
    runner: asyncio.Runner,
    store: Store,
    secrets: list[Secret],
    value: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A ccache whose secret cannot be read is unavailable, logged and kept."""
    spoil(runner, store, ccache_secret(secrets), value)
    server = Server(runner, store)
    with caplog.at_level(logging.ERROR):
        assert_one_unavailable(server, secrets)
    (record,) = caplog.records
    assert "1000:broken" in record.getMessage()
    assert record.__dict__["KCM_UID"] == 1000
    assert record.__dict__["KCM_CCACHE"] == "1000:broken"
    assert_destroyed(server)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "value",
    [b"", b"?", b"\0\0\0\1" * 3, b'{"version": 1}'],
    ids=["empty", "one byte", "cut", "JSON"],
)
def test_unreadable_credential_makes_its_ccache_unavailable(
    runner: asyncio.Runner,
    store: Store,
    secrets: list[Secret],
    which: int,
    value: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A ccache with a credential that cannot be read is unavailable as a whole."""
    spoil(runner, store, credential_secrets(secrets)[which], value)
    server = Server(runner, store)
    with caplog.at_level(logging.ERROR):
        assert_one_unavailable(server, secrets)
    assert len(caplog.records) == 1
    assert_destroyed(server)


def test_several_unreadable_secrets_are_one_unavailable_ccache(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """Several unreadable secrets of one ccache make that one unavailable."""
    for secret in [ccache_secret(secrets), *credential_secrets(secrets)]:
        spoil(runner, store, secret, b"?")
    server = Server(runner, store)
    with caplog.at_level(logging.ERROR):
        assert_one_unavailable(server, secrets)
    assert_destroyed(server)


def test_unreadable_default_is_forgotten(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable default is logged; the default is `<uid>` until another one is chosen."""
    spoil(runner, store, Secret(uid_container(1000), DEFAULT, b""), b"?")
    asking = Server(runner, store).ask_as(1000)
    with caplog.at_level(logging.ERROR):
        assert asking.get_default_cache() == b"1000"
    assert "default" in caplog.text
    assert len(asking.get_cache_uuid_list()) == 2
    asking.set_default_cache(BROKEN)
    assert Server(runner, store).ask_as(1000).get_default_cache() == BROKEN


def test_unreadable_default_ccache_can_be_destroyed(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """Kdestroy of the default helps if the default ccache cannot be read."""
    asking = Server(runner, store).ask_as(1000)
    asking.set_default_cache(BROKEN)
    spoil(runner, store, ccache_secret(secrets), b"?")
    with caplog.at_level(logging.ERROR):
        asking = Server(runner, store).ask_as(1000)
        assert asking.get_default_cache() == BROKEN
    asking.destroy(asking.get_default_cache())
    asking.initialize(BROKEN, ALICE)
    assert asking.get_principal(asking.get_default_cache()) == ALICE


@EMBEDDED_STORES
def test_secrets_without_a_ccache_are_kept(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """Secrets without a ccache and of unknown kinds are kept, and affect nothing."""
    strange = [
        Put(ccaches_container(1000), "no ccache", b"{}"),
        Put(ccaches_container(1000), "0" * 32 + "-%zz", b"{}"),
        Put(uid_container(1000), "something", b"else"),
        Put(ccache_container(1000, bytes(16), b"1000:gone"), "0" * 32, b"?"),
        Put(uid_container(1000) + "/more", "x", b"?"),
    ]
    runner.run(commit_changes(store, strange))
    server = Server(runner, store)
    asking = server.ask_as(1000)
    with caplog.at_level(logging.ERROR):
        assert len(asking.get_cache_uuid_list()) == 2
    assert asking.get_cred_list(BROKEN) == CREDENTIALS
    asking.store(BROKEN, TGT)
    kept = runner.run(secrets_of(store, 1000))
    assert all(Secret(*put) in kept for put in strange)


@EMBEDDED_STORES
def test_second_ccache_or_equal_credential_is_ignored(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """A second ccache of one name or UUID, and a second equal credential, do not affect the first."""
    ccache, credential = ccache_secret(secrets), credential_secrets(secrets)[0]
    uuid, name = ccache.name.split("-", 1)
    strange = [
        Put(ccache.container, f"{'0' * 32}-{name}", ccache.value),
        Put(ccache.container, f"{uuid}-1000:other", ccache.value),
        Put(credential.container, "0" * 32, credential.value),
    ]
    runner.run(commit_changes(store, strange))
    with caplog.at_level(logging.ERROR):
        asking = Server(runner, store).ask_as(1000)
        assert len(asking.get_cache_uuid_list()) == 2
    assert "another ccache has its name or UUID" in caplog.text
    assert asking.get_cred_list(BROKEN) == CREDENTIALS
    asking.remove_cred(BROKEN, 0, Tag())
    assert asking.get_cred_list(BROKEN) == []


@EMBEDDED_STORES
@pytest.mark.parametrize("name", ["not a UUID", "00", "0 " * 16])
def test_credential_without_a_uuid_counts_as_unreadable(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A credential whose secret has no UUID as its name counts as unreadable."""
    credential = credential_secrets(secrets)[0]
    runner.run(commit_changes(store, [Put(credential.container, name, credential.value)]))
    server = Server(runner, store)
    with caplog.at_level(logging.ERROR):
        assert_one_unavailable(server, [*secrets, credential])
    assert_destroyed(server)


@EMBEDDED_STORES
def test_names_of_unreadable_secrets_are_escaped_in_the_log(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """Unprintable bytes in the names of unreadable secrets are escaped in the log."""
    runner.run(
        commit_changes(store, [Put(ccaches_container(1000), "x\npykcmd: info: all is well\x1b[2J", b"?")])
    )
    with caplog.at_level(logging.ERROR):
        Server(runner, store).ask_as(1000).get_cache_uuid_list()
    (record,) = caplog.records
    assert record.getMessage().isprintable()


def test_unreadable_secrets_do_not_affect_other_users(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """Unreadable secrets of one UID affect neither other UIDs nor root's list of all."""
    spoil(runner, store, ccache_secret(secrets), b"?")
    server = Server(runner, store, root_lists_all=True)
    server.ask_as(2000).initialize(b"2000", BOB)
    with caplog.at_level(logging.ERROR):
        root = server.ask_as(0)
        listed = [root.get_cache_by_uuid(uuid) for uuid in root.get_cache_uuid_list()]
    assert listed == [GOOD, b"2000"]


def test_log_lines_contain_nothing_of_a_secret(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """A log line about an unreadable secret contains nothing of its value."""
    spoil(runner, store, credential_secrets(secrets)[0], b"SESSIONKEY!")
    with caplog.at_level(logging.DEBUG):
        Server(runner, store).ask_as(1000).get_cache_uuid_list()
    assert caplog.records
    assert "SESSIONKEY" not in caplog.text
