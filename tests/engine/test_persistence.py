"""Changes as secrets: a restart finds exactly the collections that were in memory."""

import asyncio
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
    ccache_name,
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
from tests.storing import secrets_of

SUFFIXES = [b"", b":a", b":x/y%", b":\xff"]
TICKETS = [
    credential_bytes(TGS),
    credential_bytes(TGS, ticket=b"renewed, and longer"),
    credential_bytes(TGS, second_ticket=b"evidence"),
    credential_bytes(HTTP) + b"\0\0\0\0",
    credential_bytes(HTTP, BOB, is_skey=True),
    credential_of_size(700, service(1)).blob,
    # One that has expired by the clock of these tests, one that never does, and the one that ends last.
    ticket(service(2), ends=1400).blob,
    ticket(service(3), ends=0).blob,
    ticket(service(2), ends=2**32 - 1).blob,
    configuration(b"start_realm", b"PYKCM.TEST").blob,
]


ODD = Principal(2**32 - 1, b"\xff\0", (b"", b"a/b", b"\xfe"))
PRINCIPALS = [ALICE, BOB, ODD]
TAGS = [(tag_for(TGS), 0), (tag_for(HTTP), 0), (Tag(), 0), (Tag(server=HTTP, is_skey=True), Match.IS_SKEY)]


# DESTROY without a name destroys the default.
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


# On a busy machine, some thousand transactions of a database take long.
@pytest.mark.timeout(600)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([WITHOUT_SELINUX, WITH_SELINUX]).flatmap(
        lambda labels: st.lists(st.tuples(st.sampled_from(labels), operations), min_size=5, max_size=30)
    )
)
def test_stored_collection_equals_the_one_in_memory(
    runner: asyncio.Runner, store: Store, sequence: list[tuple[str | None, tuple[int, bytes, bytes]]]
) -> None:
    """After any operations, also refused ones, the stored collection equals the one in memory."""
    uid = next(fresh_uids)
    # Quotas that refuse some operations.
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


def test_destroyed_ccaches_leave_only_a_chosen_default(runner: asyncio.Runner, store: Store) -> None:
    """When the last ccache is destroyed, the store has at most a chosen default of the UID."""
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


def test_store_writes_one_secret(server: Server, alice: Asking) -> None:
    """A STORE writes one credential, neither the ccache nor other credentials."""
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


def test_requests_without_a_change_are_not_committed(server: Server, alice: Asking) -> None:
    """Requests that change nothing cause no commit."""
    alice.initialize(b"1000", ALICE)
    server.store.commits.clear()
    alice.get_cred_list(b"1000")
    alice.gen_new()
    with refused(Code.CC_NOTFOUND):
        alice.remove_cred(b"1000", 0, tag_for(HTTP))
    alice.set_default_cache(b"1000")
    alice.set_kdc_offset(b"1000", 0)
    assert server.store.commits == []


def test_names_of_secrets_are_as_documented(runner: asyncio.Runner, store: Store) -> None:
    """The store's containers and names are the documented ones."""
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


def test_concurrent_requests_read_the_store_once(server: Server, alice: Asking) -> None:
    """Concurrent requests for a collection that is not cached read it once, and all are answered."""
    alice.initialize(b"1000", ALICE)
    again = server.restarted()
    arguments = b"1000\0"
    replies = again.answers([(1000, Opcode.GET_PRINCIPAL, arguments)] * 5)
    assert replies == [(0, principal_bytes(ALICE))] * 5
    assert again.store.loads == [1000]
