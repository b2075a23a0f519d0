"""What is read again is what was in memory, and a secret that cannot be read harms one ccache."""

import asyncio
import errno
import logging
import struct
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import Quotas
from pykcm.engine.persistence import restore
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Match, Tag
from pykcm.store.interface import Store
from pykcm.store.tree import (
    DEFAULT,
    Put,
    Secret,
    ccache_container,
    ccache_name,
    ccaches_container,
    uid_container,
)
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    Clock,
    configuration,
    credential_bytes,
    credential_of_size,
    data,
    principal_bytes,
    refused,
    service,
    tag_for,
    ticket,
)
from tests.ccaches.contents import contents
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, Mcs
from tests.server.asking import Asking, Server
from tests.storing import commit_changes, secrets_of

# Any sequence of operations

SUFFIXES = [b"", b":a", b":x/y%", b":\xff"]
TICKETS = [
    credential_bytes(TGS),
    credential_bytes(TGS, ticket=b"renewed, and longer"),
    credential_bytes(TGS, second_ticket=b"evidence"),
    credential_bytes(HTTP) + b"\0\0\0\0",
    credential_bytes(HTTP, BOB, is_skey=True),
    credential_of_size(700, service(1)).blob,
    # Has expired by the clock of these tests, never does, and does later than all others.
    ticket(service(2), ends=1400).blob,
    ticket(service(3), ends=0).blob,
    ticket(service(2), ends=2**32 - 1).blob,
    configuration(b"start_realm", b"PYKCM.TEST").blob,
]
ODD = Principal(2**32 - 1, b"\xff\0", (b"", b"a/b", b"\xfe"))
PRINCIPALS = [ALICE, BOB, ODD]
TAGS = [(tag_for(TGS), 0), (tag_for(HTTP), 0), (Tag(), 0), (Tag(server=HTTP, is_skey=True), Match.IS_SKEY)]

# DESTROY without a name: of the default.
_KDESTROY = -1

names = st.sampled_from(SUFFIXES)
operations = st.one_of(
    st.tuples(st.just(Opcode.INITIALIZE), names, st.sampled_from(PRINCIPALS).map(principal_bytes)),
    st.tuples(st.just(Opcode.STORE), names, st.sampled_from(TICKETS)),
    st.tuples(st.just(Opcode.STORE), names, st.sampled_from(TICKETS)),
    st.tuples(
        st.just(Opcode.REMOVE_CRED),
        names,
        st.sampled_from([struct.pack(">I", match_flags) + tag.pack() for tag, match_flags in TAGS]),
    ),
    st.tuples(st.just(Opcode.DESTROY), names, st.just(b"")),
    st.tuples(st.just(_KDESTROY), names, st.just(b"")),
    st.tuples(st.just(Opcode.MOVE_CACHE), names, names),
    st.tuples(st.just(Opcode.SET_DEFAULT_CACHE), names, st.just(b"")),
    st.tuples(st.just(Opcode.GET_DEFAULT_CACHE), names, st.just(b"")),
    st.tuples(st.just(Opcode.SET_KDC_OFFSET), names, st.integers(-5, 5).map(struct.Struct(">i").pack)),
    st.tuples(
        st.just(Opcode.REPLACE),
        names,
        st.lists(st.sampled_from(TICKETS), max_size=3).map(
            lambda tickets: (
                struct.pack(">i", -9)
                + principal_bytes(BOB)
                + struct.pack(">I", len(tickets))
                + b"".join(map(data, tickets))
            )
        ),
    ),
)

fresh_uids = count(5000)

WITHOUT_SELINUX: list[str | None] = [None]
WITH_SELINUX: list[str | None] = [CONTAINER_1, CONTAINER_2, HOST]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([WITHOUT_SELINUX, WITH_SELINUX]).flatmap(
        lambda labels: st.lists(st.tuples(st.sampled_from(labels), operations), min_size=5, max_size=30)
    )
)
def test_what_is_read_again_is_what_was_in_memory(
    runner: asyncio.Runner, store: Store, sequence: list[tuple[str | None, tuple[int, bytes, bytes]]]
) -> None:
    """After each of any operations, refused ones too, a restart would find exactly what is in memory."""
    uid = next(fresh_uids)
    # As much as lets some be refused.
    server = Server(
        runner,
        store,
        quotas=Quotas(max_uid_ccaches=2, max_ccache_size=1500, max_uid_size=2000),
        policy=None if sequence[0][0] is None else Mcs(),
    )
    for label, (opcode, suffix, rest) in sequence:
        name = b"%d%s\0" % (uid, suffix)
        if opcode == _KDESTROY:
            opcode, name = Opcode.DESTROY, b"\0"  # noqa: PLW2901
        if opcode == Opcode.MOVE_CACHE:
            rest = b"%d%s\0" % (uid, rest)  # noqa: PLW2901 - names are under the UID of this example
        server.ask_as(uid, label).answer(opcode, name + rest)
        in_memory = runner.run(server.collection_cache.get(uid))
        read_again = Collection(uid, Clock())
        restore(read_again, runner.run(secrets_of(store, uid)))
        assert contents(read_again) == contents(in_memory)


def test_what_was_destroyed_leaves_nothing(runner: asyncio.Runner, store: Store) -> None:
    """When the last ccache is gone, the store holds nothing of that UID but a default that was chosen."""
    asking = Server(runner, store).ask_as(1000)
    asking.initialize(b"1000", ALICE)
    asking.initialize(b"1000:a", ALICE)
    asking.store(b"1000", TICKETS[0])
    asking.move_cache(b"1000", b"1000:b")
    asking.set_default_cache(b"1000:b")
    asking.initialize(b"1000:b", ALICE)
    asking.destroy(b"1000:b")
    asking.destroy(b"1000:a")
    (left,) = runner.run(secrets_of(store, 1000))
    assert (left.container, left.name) == (uid_container(1000), DEFAULT)
    asking.set_default_cache(b"1000")
    assert runner.run(secrets_of(store, 1000)) == []


def test_a_store_writes_one_secret(server: Server, alice: Asking) -> None:
    """A STORE writes the one credential, and not the ccache or the others anew."""
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", TICKETS[0])
    server.store.commits.clear()
    alice.store(b"1000", TICKETS[3])
    alice.store(b"1000", TICKETS[1])
    assert [len(commit) for commit in server.store.commits] == [1, 1]
    (first,), (second,) = server.store.commits
    assert isinstance(first, Put)
    assert isinstance(second, Put)
    assert first.container == second.container
    assert [first.name, second.name] == [uuid.hex() for uuid in reversed(alice.get_cred_uuid_list(b"1000"))]


def test_reading_writes_nothing(server: Server, alice: Asking) -> None:
    """What changes nothing is no commit."""
    alice.initialize(b"1000", ALICE)
    server.store.commits.clear()
    alice.get_cred_list(b"1000")
    alice.gen_new()
    with refused(Code.CC_NOTFOUND):
        alice.remove_cred(b"1000", 0, tag_for(HTTP))
    alice.set_default_cache(b"1000")
    alice.set_kdc_offset(b"1000", 0)
    assert server.store.commits == []


# Secrets that cannot be read

GOOD, BROKEN = b"1000", b"1000:broken"


@pytest.fixture
def secrets(runner: asyncio.Runner, store: Store) -> list[Secret]:
    """Those of UID 1000: the ccaches `1000` and `1000:broken` of two tickets each, and a default."""
    asking = Server(runner, store).ask_as(1000)
    for name in (GOOD, BROKEN):
        asking.replace(name, 0, ALICE, TICKETS[2:4])
    asking.set_default_cache(GOOD + b":x")
    return runner.run(secrets_of(store, 1000))


def ccache_secret(secrets: list[Secret]) -> Secret:
    """The secret of the ccache `1000:broken`."""
    (found,) = [s for s in secrets if s.container == ccaches_container(1000) and s.name.endswith(":broken")]
    return found


def credential_secrets(secrets: list[Secret]) -> list[Secret]:
    """Those of its credentials."""
    return [secret for secret in secrets if secret.container.endswith(":broken")]


def spoil(runner: asyncio.Runner, store: Store, secret: Secret, value: bytes) -> None:
    runner.run(commit_changes(store, [Put(secret.container, secret.name, value)]))


def assert_one_unavailable(server: Server, secrets: list[Secret]) -> None:
    """Only `1000:broken` is unavailable: the rest is as it was, and nothing has been deleted."""
    asking = server.ask_as(1000)
    (uuid,) = asking.get_cache_uuid_list()
    assert asking.get_cache_by_uuid(uuid) == GOOD
    assert asking.get_cred_list(GOOD) == TICKETS[2:4]
    assert asking.get_default_cache() == GOOD
    for opcode, rest in [
        (Opcode.GET_PRINCIPAL, b""),
        (Opcode.GET_CRED_LIST, b""),
        (Opcode.GET_CRED_UUID_LIST, b""),
        (Opcode.STORE, TICKETS[0]),
        (Opcode.INITIALIZE, principal_bytes(BOB)),
        (Opcode.MOVE_CACHE, GOOD + b"\0"),
    ]:
        assert (opcode, *asking.answer(opcode, BROKEN + b"\0" + rest)) == (opcode, errno.EIO, b"")
    with refused(errno.EIO):
        asking.move_cache(GOOD, BROKEN)
    assert len(server.runner.run(secrets_of(server.store, 1000))) == len(secrets)


def assert_destroyed(server: Server) -> None:
    """DESTROY removes the unavailable ccache with all its secrets, and its name is free again."""
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
def test_an_unreadable_ccache(
    runner: asyncio.Runner,
    store: Store,
    secrets: list[Secret],
    value: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A ccache's secret that cannot be read makes that ccache unavailable, is logged and kept."""
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
def test_an_unreadable_credential(
    runner: asyncio.Runner,
    store: Store,
    secrets: list[Secret],
    which: int,
    value: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A credential's secret that cannot be read makes its ccache unavailable as a whole."""
    spoil(runner, store, credential_secrets(secrets)[which], value)
    server = Server(runner, store)
    with caplog.at_level(logging.ERROR):
        assert_one_unavailable(server, secrets)
    assert len(caplog.records) == 1
    assert_destroyed(server)


def test_all_of_it_unreadable(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """Several secrets of one ccache that cannot be read are one unavailable ccache."""
    for secret in [ccache_secret(secrets), *credential_secrets(secrets)]:
        spoil(runner, store, secret, b"?")
    server = Server(runner, store)
    with caplog.at_level(logging.ERROR):
        assert_one_unavailable(server, secrets)
    assert_destroyed(server)


def test_an_unreadable_default(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """A default that cannot be read is logged and forgotten: it is `<uid>` then, and can be set anew."""
    spoil(runner, store, Secret(uid_container(1000), DEFAULT, b""), b"?")
    asking = Server(runner, store).ask_as(1000)
    with caplog.at_level(logging.ERROR):
        assert asking.get_default_cache() == b"1000"
    assert "default" in caplog.text
    assert len(asking.get_cache_uuid_list()) == 2
    asking.set_default_cache(BROKEN)
    assert Server(runner, store).ask_as(1000).get_default_cache() == BROKEN


def test_an_unreadable_ccache_that_is_the_default(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """A kdestroy of the default helps where the default cannot be read."""
    asking = Server(runner, store).ask_as(1000)
    asking.set_default_cache(BROKEN)
    spoil(runner, store, ccache_secret(secrets), b"?")
    with caplog.at_level(logging.ERROR):
        asking = Server(runner, store).ask_as(1000)
        assert asking.get_default_cache() == BROKEN
    asking.destroy(asking.get_default_cache())
    asking.initialize(BROKEN, ALICE)
    assert asking.get_principal(asking.get_default_cache()) == ALICE


def test_secrets_that_lead_nowhere(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """Secrets of no ccache, and of no known kind, are left where they are and hinder nothing."""
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
    assert asking.get_cred_list(BROKEN) == TICKETS[2:4]
    asking.store(BROKEN, TICKETS[0])
    kept = runner.run(secrets_of(store, 1000))
    assert all(Secret(*put) in kept for put in strange)


def test_what_meets_another(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """A second ccache of one name or UUID, and a second credential that equals another, harm neither."""
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
    assert asking.get_cred_list(BROKEN) == TICKETS[2:4]
    asking.remove_cred(BROKEN, 0, Tag())
    assert asking.get_cred_list(BROKEN) == []


@pytest.mark.parametrize("name", ["not a UUID", "00", "0 " * 16])
def test_a_credential_without_a_uuid(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A credential whose secret's name is no UUID could not be asked for: it counts as unreadable."""
    credential = credential_secrets(secrets)[0]
    runner.run(commit_changes(store, [Put(credential.container, name, credential.value)]))
    server = Server(runner, store)
    with caplog.at_level(logging.ERROR):
        assert_one_unavailable(server, [*secrets, credential])
    assert_destroyed(server)


def test_a_name_that_could_forge_a_line(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """The names of secrets that cannot be read are shown with whatever is no text escaped."""
    runner.run(
        commit_changes(store, [Put(ccaches_container(1000), "x\npykcmd: info: all is well\x1b[2J", b"?")])
    )
    with caplog.at_level(logging.ERROR):
        Server(runner, store).ask_as(1000).get_cache_uuid_list()
    (record,) = caplog.records
    assert record.getMessage().isprintable()


def test_unreadable_secrets_harm_no_other_user(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """What is unreadable with one user does not concern another, nor root's list of all."""
    spoil(runner, store, ccache_secret(secrets), b"?")
    server = Server(runner, store, root_lists_all=True)
    server.ask_as(2000).initialize(b"2000", BOB)
    with caplog.at_level(logging.ERROR):
        root = server.ask_as(0)
        listed = [root.get_cache_by_uuid(uuid) for uuid in root.get_cache_uuid_list()]
    assert listed == [GOOD, b"2000"]


def test_messages_hold_no_secrets(
    runner: asyncio.Runner, store: Store, secrets: list[Secret], caplog: pytest.LogCaptureFixture
) -> None:
    """What is logged of an unreadable secret holds nothing of it."""
    spoil(runner, store, credential_secrets(secrets)[0], b"SESSIONKEY!")
    with caplog.at_level(logging.DEBUG):
        Server(runner, store).ask_as(1000).get_cache_uuid_list()
    assert caplog.records
    assert "SESSIONKEY" not in caplog.text


def test_a_name_written_by_the_service_is_found(runner: asyncio.Runner, store: Store) -> None:
    """The tree in the store is the documented one, down to the credential."""
    asking = Server(runner, store).ask_as(1000)
    asking.initialize(b"1000:a/b", ALICE)
    asking.store(b"1000:a/b", TICKETS[0])
    asking.set_default_cache(b"1000:a/b")
    (ccache,) = asking.get_cache_uuid_list()
    (ticket,) = asking.get_cred_uuid_list(b"1000:a/b")
    found = {(secret.container, secret.name) for secret in runner.run(secrets_of(store, 1000))}
    assert found == {
        ("/kcm/persistent/1000", "default"),
        ("/kcm/persistent/1000/ccaches", f"{ccache.hex()}-1000:a%2Fb"),
        (f"/kcm/persistent/1000/ccaches/{ccache_name(ccache, b'1000:a/b')}", ticket.hex()),
    }


def test_requests_at_once_after_a_restart(server: Server, alice: Asking) -> None:
    """Requests that find nothing in memory at the same time read the store once, and all are answered."""
    alice.initialize(b"1000", ALICE)
    again = server.restarted()
    arguments = b"1000\0"
    replies = again.answers([(1000, Opcode.GET_PRINCIPAL, arguments)] * 5)
    assert replies == [(0, principal_bytes(ALICE))] * 5
    assert again.store.loads == [1000]
