"""Ccaches that a peer may not read, may only read, or may only write: what each operation answers."""

import asyncio
import errno
from collections.abc import Callable

import pytest

from pykcm.peer.selinux import Permission
from pykcm.protocol.codes import Code
from pykcm.protocol.messages import NAME
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Tag
from pykcm.server.operations import OPERATIONS
from pykcm.store.interface import Store
from pykcm.store.tree import Put, Secret, ccaches_container
from tests.builders import ALICE, BOB, TGS, credential_bytes, data, principal_bytes, refused
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Asking, Server
from tests.server.programs import kinit, listed
from tests.storing import commit_changes, secrets_of

TICKET = credential_bytes(TGS)
TAG = Tag().pack()


HIDDEN, MISSING, OWN = b"1000:hidden", b"1000:nobody", b"1000:own"


# The arguments after the name, of each operation that names a ccache.
ABOUT_ONE = {
    Opcode.GET_NAME: b"",
    Opcode.RESOLVE: b"",
    Opcode.DESTROY: b"",
    Opcode.STORE: TICKET,
    Opcode.RETRIEVE: bytes(4) + TAG,
    Opcode.GET_PRINCIPAL: b"",
    Opcode.GET_CRED_UUID_LIST: b"",
    Opcode.GET_CRED_BY_UUID: bytes(16),
    Opcode.REMOVE_CRED: bytes(4) + TAG,
    Opcode.SET_FLAGS: bytes(4),
    Opcode.MOVE_CACHE: OWN + b"\0",
    Opcode.SET_DEFAULT_CACHE: b"",
    Opcode.GET_KDC_OFFSET: b"",
    Opcode.SET_KDC_OFFSET: bytes(4),
    Opcode.GET_CRED_LIST: b"",
    Opcode.RENEW: data(TICKET) + TICKET,
}


CREATING = {
    Opcode.INITIALIZE: principal_bytes(BOB),
    Opcode.REPLACE: bytes(4) + principal_bytes(BOB) + b"\0\0\0\1" + data(TICKET),
}


WITHOUT_A_NAME = {
    Opcode.NOOP,
    Opcode.GEN_NEW,
    Opcode.GET_CACHE_UUID_LIST,
    Opcode.GET_CACHE_BY_UUID,
    Opcode.GET_DEFAULT_CACHE,
}


@pytest.fixture
def hidden(server: Server, one: Asking, two: Asking) -> Asking:
    """The other container's `1000:hidden` of one ticket, its default, beside this one's `1000:own`."""
    one.initialize(HIDDEN, ALICE)
    one.store(HIDDEN, TICKET)
    one.set_default_cache(HIDDEN)
    two.initialize(OWN, BOB)
    two.set_default_cache(OWN)
    return two


def untouched(one: Asking) -> None:
    assert one.get_principal(HIDDEN) == ALICE
    assert one.get_cred_list(HIDDEN) == [TICKET]
    assert one.get_kdc_offset(HIDDEN) == 0
    assert listed(one) == [HIDDEN]
    assert one.get_default_cache() == HIDDEN


def test_tables_have_every_operation() -> None:
    """The tables of this file have every supported operation, and mark those that name a ccache."""
    supported = {opcode for opcode, each in OPERATIONS.items() if each.run.__name__ != "not_supported"}
    assert supported == {*ABOUT_ONE, *CREATING, *WITHOUT_A_NAME}
    assert {opcode for opcode in supported if NAME in OPERATIONS[opcode].arguments} == {*ABOUT_ONE, *CREATING}


@pytest.mark.parametrize("restarted", [False, True], ids=["in memory", "read again"])
@pytest.mark.parametrize("opcode", ABOUT_ONE, ids=lambda opcode: opcode.name)
def test_hidden_ccache_is_answered_as_missing(
    server: Server, one: Asking, hidden: Asking, opcode: Opcode, restarted: bool
) -> None:
    """About a hidden ccache each operation answers exactly as about a missing one, and changes nothing."""
    if restarted:
        server = server.restarted()
        one, hidden = server.ask_as(1000, CONTAINER_1), server.ask_as(1000, CONTAINER_2)
    rest = ABOUT_ONE[opcode]
    answer = hidden.answer(opcode, HIDDEN + b"\0" + rest)
    assert answer == hidden.answer(opcode, MISSING + b"\0" + rest)
    free = {Opcode.RESOLVE: 0, Opcode.SET_FLAGS: 0, Opcode.SET_DEFAULT_CACHE: 0}
    wanted = free.get(opcode, Code.CC_END if opcode == Opcode.GET_CRED_BY_UUID else Code.FCC_NOFILE)
    assert answer == (wanted, b"")
    untouched(one)
    assert listed(hidden) == [OWN]


def test_hidden_uuids_find_nothing(server: Server, one: Asking, hidden: Asking) -> None:
    """The UUIDs of a hidden ccache and of its tickets find nothing, and are not listed."""
    (ccache,) = one.get_cache_uuid_list()
    (ticket,) = one.get_cred_uuid_list(HIDDEN)
    assert ccache not in hidden.get_cache_uuid_list()
    with refused(Code.CC_END):
        hidden.get_cache_by_uuid(ccache)
    for name in (HIDDEN, OWN):
        with refused(Code.CC_END):
            hidden.get_cred_by_uuid(name, ticket)


@pytest.mark.parametrize("opcode", CREATING, ids=lambda opcode: opcode.name)
def test_creating_a_hidden_name_is_refused(one: Asking, hidden: Asking, opcode: Opcode) -> None:
    """Creating a ccache with a hidden one's name is FCC_PERM, and changes neither."""
    assert hidden.answer(opcode, HIDDEN + b"\0" + CREATING[opcode]) == (Code.FCC_PERM, b"")
    with refused(Code.FCC_PERM):
        hidden.move_cache(OWN, HIDDEN)
    untouched(one)
    assert hidden.get_principal(OWN) == BOB


def test_gen_new_never_returns_a_hidden_name(hidden: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """GEN_NEW never returns a hidden ccache's name."""
    drawn = iter([b"hidden", b"own", b"free"])
    monkeypatch.setattr("pykcm.ccaches.lookup._random_suffix", lambda: next(drawn))
    assert hidden.gen_new() == b"1000:free"


# Reading without writing, and writing without reading


def test_read_only_ccache_cannot_be_changed(runner: asyncio.Runner, store: Store) -> None:
    """A ccache that may only be read is listed and read; every change of it is FCC_PERM."""
    server = Server(runner, store, policy=Mcs(CONTAINER_1))
    host, reader = server.ask_as(1000, HOST_LOW), server.ask_as(1000, CONTAINER_1)
    host.initialize(HIDDEN, ALICE)
    host.store(HIDDEN, TICKET)
    reader.initialize(OWN, BOB)
    assert listed(reader) == [HIDDEN, OWN]
    assert reader.get_cred_list(HIDDEN) == [TICKET]
    for opcode, rest in (ABOUT_ONE | CREATING).items():
        if opcode == Opcode.SET_DEFAULT_CACHE or not OPERATIONS[opcode].changes:
            continue
        assert (opcode, *reader.answer(opcode, HIDDEN + b"\0" + rest)) == (opcode, Code.FCC_PERM, b"")
    with refused(Code.FCC_PERM):
        reader.move_cache(OWN, HIDDEN)
    assert host.get_principal(HIDDEN) == ALICE
    assert host.get_cred_list(HIDDEN) == [TICKET]
    reader.set_default_cache(HIDDEN)
    assert reader.get_default_cache() == HIDDEN


def test_read_only_ccache_is_not_the_default(runner: asyncio.Runner, store: Store) -> None:
    """GET_DEFAULT_CACHE returns a name that the peer may create, not one that it may only read."""
    server = Server(runner, store, policy=Mcs(CONTAINER_1))
    kinit(server.ask_as(1000, HOST_LOW))
    name = kinit(server.ask_as(1000, CONTAINER_1))
    assert name != b"1000"


def test_write_only_ccache_is_hidden(
    server: Server, one: Asking, two: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ccache that may be written but not read is hidden as well, and its name is taken."""
    one.initialize(b"1000", ALICE)

    def write_everywhere(peer: str, target: str, permission: Permission) -> bool:
        return permission is Permission.WRITE or Mcs().allows(peer, target, permission)

    monkeypatch.setattr(server.policy, "allows", write_everywhere)
    for opcode in (Opcode.DESTROY, Opcode.STORE, Opcode.GET_PRINCIPAL):
        assert two.answer(opcode, b"1000\0" + ABOUT_ONE[opcode]) == (Code.FCC_NOFILE, b"")
    with refused(Code.FCC_PERM):
        two.initialize(b"1000", BOB)
    assert kinit(two) != b"1000"


@pytest.mark.parametrize("label", ["", "nonsense", "u:r:t:s0-", "u:r:t:s0 "])
def test_ccache_with_a_malformed_label_is_hidden(
    server: Server, runner: asyncio.Runner, store: Store, host: Asking, label: str
) -> None:
    """A ccache with a malformed label is hidden from everybody, where labels count."""
    Server(runner, store).ask_as(1000, label).initialize(b"1000", ALICE)
    assert host.get_cache_uuid_list() == []
    with refused(Code.FCC_NOFILE):
        host.get_principal(b"1000")
    with refused(Code.FCC_PERM):
        host.initialize(b"1000", ALICE)
    assert Server(runner, store).ask_as(1000).get_principal(b"1000") == ALICE


def test_ccaches_are_hidden_without_an_answer(
    server: Server, one: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer of the policy, ccaches are hidden: nothing is answered as if it were allowed."""
    one.initialize(b"1000", ALICE)

    def fail(_peer: str, _target: str, _permission: Permission) -> bool:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(server.policy, "allows", fail)
    assert one.get_cache_uuid_list() == []
    with refused(Code.FCC_NOFILE):
        one.get_principal(b"1000")


# Ccaches whose secrets cannot be read


def spoil(server: Server, where: Callable[[Secret], bool]) -> Server:
    """A service that finds this secret of UID 1000 damaged."""
    (secret,) = [each for each in server.runner.run(secrets_of(server.store, 1000)) if where(each)]
    server.runner.run(commit_changes(server.store, [Put(secret.container, secret.name, b"spoilt")]))
    return server.restarted()


def test_damaged_ticket_by_label(server: Server, one: Asking) -> None:
    """A ccache with a damaged ticket answers EIO, and can be destroyed, for peers that may read it."""
    one.initialize(HIDDEN, ALICE)
    one.store(HIDDEN, TICKET)
    again = spoil(server, lambda secret: secret.container.endswith(HIDDEN.decode()))
    one, two = again.ask_as(1000, CONTAINER_1), again.ask_as(1000, CONTAINER_2)
    for opcode, rest in ABOUT_ONE.items():
        answer = two.answer(opcode, HIDDEN + b"\0" + rest)
        assert answer == two.answer(opcode, MISSING + b"\0" + rest), opcode
    with refused(Code.FCC_PERM):
        two.initialize(HIDDEN, BOB)
    with refused(errno.EIO):
        one.get_principal(HIDDEN)
    with refused(errno.EIO):
        one.initialize(HIDDEN, BOB)
    one.destroy(HIDDEN)
    two.initialize(HIDDEN, BOB)


@pytest.mark.parametrize("label", [CONTAINER_1, CONTAINER_2, HOST])
def test_ccache_with_an_unreadable_label_is_hidden(server: Server, one: Asking, label: str) -> None:
    """A ccache whose label cannot be read is hidden from every label, and its name is taken.

    A default that names it gives way to another one.
    """
    one.initialize(b"1000", ALICE)
    again = spoil(server, lambda secret: secret.container == ccaches_container(1000))
    asking = again.ask_as(1000, label)
    for opcode, rest in ABOUT_ONE.items():
        if opcode != Opcode.SET_DEFAULT_CACHE:
            answer = asking.answer(opcode, b"1000\0" + rest)
            assert answer == asking.answer(opcode, MISSING + b"\0" + rest), opcode
    with refused(Code.FCC_PERM):
        asking.initialize(b"1000", BOB)
    assert kinit(asking) != b"1000"
    Server(again.runner, again.store.inner).ask_as(1000).destroy(b"1000")
